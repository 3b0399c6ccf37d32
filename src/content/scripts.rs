//! Scripts, which a FastCGI server runs: which files they are, and which paths ask for one.
//!
//! A server must never be asked for a script that does not exist: php-fpm, for one, would look for a file further up in
//! the path, and run an uploaded `/image.jpg` for `/image.jpg/x.php`. So the path is split by `locator`, and only the name of a
//! regular file below the docroot is passed on. And a script must never be served as a file, since it holds passwords:
//! not under another spelling, and not the copy that an editor has left.
//!
//! Pure.

use std::path::PathBuf;

use memchr::memmem;

/// A script, and how the request's path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The directory in which it was found, without symbolic links.
    pub root: PathBuf,
    /// Its decoded path below that, with a slash in front.
    pub name: Vec<u8>,
    /// What follows the name in the path of the request; empty, or with a slash in front.
    pub path_info: Vec<u8>,
}

/// Whether a path is that of a script. As php-fpm does by default, only this spelling is run.
pub(super) fn is_script(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next();
    name.is_some_and(|name| name.len() > 4 && name.ends_with(b".php"))
}

/// Whether a path asks for a script in some spelling; if there is none, the path is not one of the application's.
pub(super) fn asks_for_script(path: &[u8]) -> bool {
    let mut names = path.split(|byte| *byte == b'/');
    names.any(|name| {
        let name = name.trim_ascii_end().to_ascii_lowercase();
        let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit());
        // `.php5` is a script as well.
        let name = &name[..name.len() - digits.count()];
        SCRIPTS.iter().any(|ending| name.ends_with(ending))
    })
}

/// Whether a file with this relative path is not served beside scripts: a script, a copy of one, or a file of a server or
/// a tool.
pub(super) fn is_private(path: &[u8]) -> bool {
    let path = path.to_ascii_lowercase();
    let mut names = path.split(|byte| *byte == b'/');
    names.any(|name| TOOLS.iter().any(|start| name.starts_with(start)))
        || SCRIPTS
            .iter()
            .any(|ending| memmem::find(&path, ending).is_some())
}

/// Extensions of scripts, in lower case.
const SCRIPTS: [&[u8]; 5] = [b".php", b".phps", b".pht", b".phtml", b".phar"];
/// How names of files begin that servers and tools read, in lower case.
const TOOLS: [&[u8]; 6] = [b".ht", b".env", b".git", b".svn", b".hg", b".user.ini"];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Instant;

    use tempfile::TempDir;

    use crate::config::SiteConfig;
    use crate::content::files::{FileResponse, Files};
    use crate::http::head::{HeadLimits, RequestHead};

    /// A site with these files, which all have the same content.
    fn site(names: &[&str]) -> (TempDir, Files) {
        let directory = TempDir::new().unwrap();
        for name in names {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "<?php secret();").unwrap();
        }
        let config = SiteConfig {
            autoindex: true,
            ..SiteConfig::scripts("a.test", directory.path(), Vec::new())
        };
        let files = Files::of_docroot(&config).unwrap();
        (directory, files)
    }

    #[test]
    fn only_scripts_that_exist_are_found() {
        let (directory, files) = site(&[
            "index.php",
            "x.php",
            "a/index.php",
            "b/index.html",
            "image.jpg",
            "odd.php/y.php",
            "odd.php/z.jpg",
            "UPPER.PHP",
            "old.php5",
            ".git/x.php",
            "a b.php",
        ]);
        symlink("/etc/passwd", directory.path().join("out.php")).unwrap();
        symlink("x.php", directory.path().join("in.php")).unwrap();
        let find = |path: &str| {
            let found = files.script(path.as_bytes(), Some("/index.php"), Instant::now());
            let found = found.unwrap()?;
            assert_eq!(found.root, directory.path().canonicalize().unwrap());
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            Some((text(found.name), text(found.path_info)))
        };
        let check = |path: &str, expected: Option<(&str, &str)>| {
            let expected = expected.map(|(name, info)| (name.to_owned(), info.to_owned()));
            assert_eq!(find(path), expected, "{path}");
        };
        let front = Some(("/index.php", ""));
        for path in [
            "/",
            "/missing",
            "/missing/",
            "/b/",
            "/image.jpg",
            "/image.jpg/x",
            "/index.php",
        ] {
            check(path, front);
        }
        check("/x.php", Some(("/x.php", "")));
        check("//x.php", Some(("/x.php", "")));
        check("/in.php", Some(("/in.php", "")));
        check("/a b.php", Some(("/a b.php", "")));
        check("/x.php/", Some(("/x.php", "/")));
        check("/x.php/more/y.php", Some(("/x.php", "/more/y.php")));
        check("/a/", Some(("/a/index.php", "")));
        check("/odd.php/y.php/z", Some(("/odd.php/y.php", "/z")));
        check("/odd.php/z.jpg", None);
        // What would be run if a server looked for a file further up.
        for path in ["/image.jpg/x.php", "/b/index.html/.php", "/image.jpg/x.PHP"] {
            check(path, None);
        }
        for path in [
            "/missing.php",
            "/missing.php/a",
            "/X.PHP",
            "/UPPER.PHP",
            "/old.php5",
            "/x.php ",
            "/out.php",
        ] {
            check(path, None);
        }
        // No file has such a path.
        for path in [
            "/../x.php",
            "/a/../x.php",
            "/x.php\0.jpg/y.php",
            "/.git/x.php",
            "\\x.php",
        ] {
            check(path, None);
        }
        for path in ["/..", "/a/./b", "/.git/config", "/\0"] {
            check(path, front);
        }
        fs::remove_file(directory.path().join("index.php")).unwrap();
        check("/missing", None);
    }

    #[test]
    fn scripts_are_not_served() {
        let (_directory, files) = site(&[
            "index.php",
            "style.css",
            "x.php",
            "X.PHP",
            "x.php~",
            "x.php.bak",
            "#x.php#",
            "x.phtml",
            "x.Phar",
            "lib.php5",
            "x.php.gz",
            "a/index.php",
        ]);
        let serve = |path: &str| {
            let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
            let head = RequestHead::parse(head.as_bytes(), &HeadLimits::default()).unwrap();
            files.respond(&head, Instant::now())
        };
        // Twice, since what is known may be remembered.
        for path in [
            "/x.php",
            "/X.PHP",
            "/x.php~",
            "/x.php.bak",
            "/%23x.php%23",
            "/x.phtml",
            "/x.Phar",
            "/lib.php5",
            "/x.php.gz",
            "/",
            "/a/",
            "/x.php/",
            "/x%2ephp",
        ]
        .repeat(2)
        {
            assert!(serve(path).is_none(), "{path}");
        }
        assert!(matches!(serve("/style.css"), Some(FileResponse::File(_))));
        assert!(matches!(serve("/a"), Some(FileResponse::Moved(_))));
    }
}
