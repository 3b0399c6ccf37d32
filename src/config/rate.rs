//! Reads `rate_limit`: how many requests a client may send.

use super::raw::{self, Node};
use super::section::Section;
use super::types::RateLimit;
use super::value::{self, ValueError};

/// Reads `rate_limit`: `{rate, burst}`, or false.
pub(super) fn rate_limit(section: &Section) -> Option<RateLimit> {
    const KEY: &str = "rate_limit";
    let typed = section.restrictions(KEY);
    let (item, node) = typed.into_iter().next()?;
    if item.is_some() || !matches!(node, Node::Map(_)) {
        let node = raw::get(&section.map, KEY).unwrap_or(node);
        section.wrong(KEY, None, node, "write {rate: 10, burst: 20}, or false");
        return None;
    }
    let section = section.section(KEY);
    if raw::get(&section.map, "rate").is_none() {
        section.problem("no rate; write {rate: 10, burst: 20}");
    }
    let burst = section.take("burst", value::count(1..=MOST));
    let (requests, seconds) = section.take("rate", rate)?;
    // Neither is more than MOST.
    let limit = RateLimit::new(requests, seconds);
    Some(RateLimit {
        burst: burst.map_or(limit.burst, |burst| burst as u32),
        ..limit
    })
}

/// Parses requests per second, minute or hour: `10`, `10/s`, `30/m`, `500/h`. Returns the number and the seconds.
fn rate(node: &Node) -> Result<(u32, u32), ValueError> {
    let text = value::text(node).unwrap_or_default();
    let (number, seconds) = match text.split_once('/') {
        None => (text.as_str(), 1),
        Some((number, "s")) => (number, 1),
        Some((number, "m")) => (number, 60),
        Some((number, "h")) => (number, 3600),
        Some(_) => ("", 1),
    };
    let requests = value::digits(number).filter(|number| (1..=MOST).contains(number));
    let requests = requests.and_then(|number| u32::try_from(number).ok());
    let wrong = || format!("write a number from 1 to {MOST}, or 10/s, 30/m, 500/h");
    Ok((requests.ok_or_else(wrong)?, seconds))
}

/// The largest rate and burst.
const MOST: u64 = 1_000_000;
