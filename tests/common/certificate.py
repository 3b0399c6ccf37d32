"""Certificates for the Python tools in `tests`."""

import os
import subprocess


def certificate(folder, name):
    """Makes a self-signed certificate for a host name that lasts two days: `cert.pem` and `key.pem` in a directory."""
    command = "openssl req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    files = ["-keyout", os.path.join(folder, "key.pem"), "-out", os.path.join(folder, "cert.pem")]
    subprocess.run(command.split() + subject + files, check=True, stderr=subprocess.DEVNULL)
