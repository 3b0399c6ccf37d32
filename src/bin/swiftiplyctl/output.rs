//! Prints what the server says, for people.

use serde_json::Value;
use swiftiply::internals::amount::counted;

use crate::commands::{Action, Command};
use crate::connection::CommandResponse;
use crate::failure::Failure;

/// The text for a response.
///
/// # Errors
/// The response is not what the command expects.
pub(crate) fn render(command: &Command, response: &CommandResponse) -> Result<String, Failure> {
    let value = &response.value;
    let text = match (command.action, command.name) {
        (Action::Show, _) => value["config"].as_str().map(str::to_owned),
        (_, "status") => status(value),
        (_, "sites") => sites(value),
        (_, "backends") => backends(value),
        (Action::Certificates, _) if value["results"].is_array() => dry_run(value),
        (Action::Certificates, _) => certificates(value),
        _ => value["message"]
            .as_str()
            .map(|message| format!("{message}\n")),
    };
    text.ok_or_else(|| {
        Failure::Connection("the server's response is of another version".to_owned())
    })
}

fn status(value: &Value) -> Option<String> {
    let number = |name: &str| value[name].as_u64();
    let mut text = format!(
        "swiftiply {}, process {}, running for {}\n",
        value["version"].as_str()?,
        number("pid")?,
        duration(number("uptime")?),
    );
    text.push_str(&format!(
        "{} connected, {} waiting, {}, {}/s\n",
        counted(number("connections")?, "client"),
        counted(number("waiting")?, "request"),
        counted(value["requests"]["total"].as_u64()?, "response"),
        rate(&value["requests"]["rate"])?,
    ));
    let configuration = &value["configuration"];
    if let Some(error) = configuration["error"].as_str() {
        text.push_str(&format!("the last reload failed: {error}\n"));
    }
    let unpersisted = list(&configuration["unpersisted"]);
    if !unpersisted.is_empty() {
        text.push_str(&format!(
            "changed, and not in the file: {}\n",
            unpersisted.join(", ")
        ));
    }
    let drained = value["drained"].as_array()?.iter();
    let drained: Vec<_> = drained.filter_map(|one| one["name"].as_str()).collect();
    if !drained.is_empty() {
        text.push_str(&format!("drained: {}\n", drained.join(", ")));
    }
    for certificate in value["certificates"].as_array()? {
        if let Some(error) = certificate["error"].as_str() {
            let names = list(&certificate["names"]).join(", ");
            text.push_str(&format!("certificate {names}: {error}\n"));
        }
    }
    text.push('\n');
    text.push_str(&sites(value)?);
    Some(text)
}

fn sites(value: &Value) -> Option<String> {
    let heads = ["SITE", "STATE", "RATE", "WAITING", "BACKENDS", "BUSY"];
    let mut rows = vec![heads.map(str::to_owned)];
    for site in value["sites"].as_array()? {
        let (backends, busy) = match site["servers"].as_array() {
            Some(servers) => {
                let is_up = |server: &&Value| server["state"] == "up";
                let up = servers.iter().filter(is_up).count();
                let busy = servers.iter().filter_map(|server| server["busy"].as_u64());
                (format!("{up}/{}", servers.len()), busy.sum())
            }
            None => {
                let backends = &site["backends"];
                let connected = backends["connected"].as_u64()?;
                (connected.to_string(), backends["busy"].as_u64()?)
            }
        };
        rows.push([
            site["name"].as_str()?.to_owned(),
            list(&site["state"]).join(","),
            format!("{}/s", rate(&site["requests"]["rate"])?),
            site["waiting"].as_u64()?.to_string(),
            backends,
            busy.to_string(),
        ]);
    }
    Some(table(&rows))
}

fn backends(value: &Value) -> Option<String> {
    let heads = [
        "NAME",
        "FROM",
        "AT",
        "STATE",
        "FOR",
        "RESPONSES",
        "FAILED",
        "WHY",
    ];
    let mut rows = vec![heads.map(str::to_owned)];
    let mut add = |backend: &Value, name: &str, at: &str, state: String| {
        let text = |name: &str| backend[name].as_str().unwrap_or("-").to_owned();
        let number = |name: &str| {
            let number = backend[name].as_u64();
            number.map_or_else(|| "-".to_owned(), |number| number.to_string())
        };
        rows.push([
            text(name),
            text("from"),
            text(at),
            match backend["drained"].as_bool() {
                Some(true) => format!("drained, {state}"),
                _ => state,
            },
            backend["since"]
                .as_u64()
                .map_or_else(|| "-".to_owned(), duration),
            number("requests"),
            number("failures"),
            backend["why"].as_str().unwrap_or_default().to_owned(),
        ]);
    };
    for backend in value["backends"].as_array()? {
        let name = if backend["name"].is_string() {
            "name"
        } else {
            "id"
        };
        add(backend, name, "at", backend["state"].as_str()?.to_owned());
    }
    for server in value["servers"].as_array()? {
        let state = match (server["state"].as_str()?, server["busy"].as_u64()?) {
            (state, 0) => state.to_owned(),
            (state, busy) => format!("{state}, {busy} busy"),
        };
        add(server, "address", "site", state);
    }
    for drained in value["drained"].as_array()? {
        if drained["connected"] == 0 {
            let state = "drained, not connected".to_owned();
            add(drained, "name", "at", state);
        }
    }
    Some(table(&rows))
}

fn certificates(value: &Value) -> Option<String> {
    let heads = ["NAMES", "SOURCE", "ISSUER", "EXPIRES", "RENEWAL", "ERROR"];
    let mut rows = vec![heads.map(str::to_owned)];
    for one in value["certificates"].as_array()? {
        let names = list(&one["names"]).join(",");
        let file = one["file"].as_str();
        let is_temporary = one["temporary"].as_bool() == Some(true);
        let renewal = one["renewal"].as_u64();
        rows.push([
            match names.is_empty() {
                true => file.unwrap_or("-").to_owned(),
                false => names,
            },
            match file {
                Some(file) => format!("file {file}"),
                None => one["source"].as_str()?.to_owned(),
            },
            match is_temporary {
                true => "self-signed".to_owned(),
                false => one["issuer"].as_str()?.to_owned(),
            },
            match is_temporary {
                true => "-".to_owned(),
                false => date(one["expires"].as_u64()?),
            },
            renewal.map_or_else(|| "-".to_owned(), date),
            one["error"].as_str().unwrap_or("-").to_owned(),
        ]);
    }
    Some(table(&rows))
}

fn dry_run(value: &Value) -> Option<String> {
    let mut text = format!("asked {}\n\n", value["directory"].as_str()?);
    let mut rows = vec![["NAME", "RESULT", "REASON"].map(str::to_owned)];
    for one in value["results"].as_array()? {
        let (result, reason) = match (one["challenge"].as_str(), one["error"].as_str()) {
            (Some(challenge), reason) => (format!("works by {challenge}"), reason),
            (None, reason) => ("fails".to_owned(), reason),
        };
        rows.push([
            one["name"].as_str()?.to_owned(),
            result,
            reason.unwrap_or("-").to_owned(),
        ]);
    }
    text.push_str(&table(&rows));
    Some(text)
}

/// A time of so many seconds since 1970, in UTC.
fn date(seconds: u64) -> String {
    let (day, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = swiftiply::internals::x509::date(i64::try_from(day).unwrap_or(0));
    let (hour, minute) = (rest / 3600, rest % 3600 / 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}Z")
}

/// Requests per second: with a decimal if there are few.
fn rate(value: &Value) -> Option<String> {
    let rate = value.as_f64()?;
    Some(match rate > 0.0 && rate < 10.0 {
        true => format!("{rate:.1}"),
        false => format!("{rate:.0}"),
    })
}

fn list(value: &Value) -> Vec<&str> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).collect()
}

/// Rows with aligned columns.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or_default();
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Seconds as `3d 4h`, `2h 5m`, `7m 1s` or `9s`.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |seconds: u64, expected: &str| assert_eq!(duration(seconds), expected);
        check(9, "9s");
        check(421, "7m 1s");
        check(7500, "2h 5m");
        check(273_600, "3d 4h");
    }

    #[test]
    fn dates() {
        assert_eq!(date(784_111_777), "1994-11-06 08:49Z");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["A", "LONG"], ["long name", "b"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A          LONG\nlong name  b\n");
    }
}
