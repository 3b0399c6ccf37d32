//! Decides which requests an access log leaves out.

use crate::config::ExcludedRequests;
use crate::http::head::RequestHead;

/// Whether an access log leaves a request out.
pub fn is_excluded(excluded: &ExcludedRequests, head: &RequestHead) -> bool {
    let ExcludedRequests { paths, agents } = excluded;
    !paths.is_empty() && is_path_excluded(paths, &head.target.decoded_path())
        || !agents.is_empty()
            && head
                .headers
                .get("User-Agent")
                .is_some_and(|agent| is_agent_excluded(agents, agent))
}

/// Whether a path is one of these or below it.
fn is_path_excluded(paths: &[String], path: &[u8]) -> bool {
    // A request must not hide another path behind an excluded one.
    if path.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return false;
    }
    paths.iter().any(|excluded| {
        let excluded = excluded.trim_end_matches('/').as_bytes();
        let below = path.strip_prefix(excluded);
        below.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    })
}

/// Whether a User-Agent contains one of these, in whatever case.
fn is_agent_excluded(agents: &[String], agent: &[u8]) -> bool {
    agents.iter().any(|excluded| {
        let mut parts = agent.windows(excluded.len().max(1));
        parts.any(|part| part.eq_ignore_ascii_case(excluded.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_everything_below_them() {
        let check = |excluded: &str, path: &str, expected: bool| {
            let paths = [excluded.to_owned()];
            let is_excluded = is_path_excluded(&paths, path.as_bytes());
            assert_eq!(is_excluded, expected, "{excluded}: {path}");
        };
        for (path, expected) in [
            ("/up", true),
            ("/up/", true),
            ("/up/a", true),
            ("/upper", false),
            ("/", false),
            ("/a/up", false),
            ("/up/../admin", false),
            ("*", false),
        ] {
            check("/up", path, expected);
            check("/up/", path, expected);
        }
        check("/", "/", true);
        check("/", "/a", true);
    }

    #[test]
    fn parts_of_user_agents() {
        let agents = ["kube-probe".to_owned(), "Uptime".to_owned()];
        let check = |agent: &str| is_agent_excluded(&agents, agent.as_bytes());
        assert!(check("kube-probe/1.30") && check("Mozilla/5.0 (uptimeBot)"));
        assert!(!check("curl") && !check("") && !check("kube probe"));
    }
}
