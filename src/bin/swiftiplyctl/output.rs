//! Prints what the server says, for people.

use serde_json::Value;

use crate::commands::{Action, Command};
use crate::connection::CommandResponse;
use crate::failure::Failure;

/// The text for a response. `before`: the one before, if this is repeated.
///
/// # Errors
/// The response is not what the command expects.
pub(crate) fn render(
    command: &Command,
    response: &CommandResponse,
    before: Option<&CommandResponse>,
) -> Result<String, Failure> {
    let value = &response.value;
    let text = match (command.action, command.name) {
        (Action::Show, _) => value["config"].as_str().map(str::to_owned),
        (_, "status") => status(value, before.map(|before| &before.value)),
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

fn status(value: &Value, before: Option<&Value>) -> Option<String> {
    let number = |name: &str| value[name].as_u64();
    let mut text = format!(
        "swiftiply {}, process {}, running for {}\n",
        value["version"].as_str()?,
        number("pid")?,
        duration(number("uptime")?),
    );
    let rate = before.and_then(|before| {
        let seconds = value["clock_ms"]
            .as_u64()?
            .checked_sub(before["clock_ms"].as_u64()?)?;
        let responses = number("responses")?.checked_sub(before["responses"].as_u64()?)?;
        Some(responses.saturating_mul(1000) / seconds.max(1))
    });
    text.push_str(&format!(
        "{} clients connected, {} requests waiting, {} responses{}\n",
        number("clients")?,
        number("waiting")?,
        number("responses")?,
        rate.map_or_else(String::new, |rate| format!(", {rate}/s")),
    ));
    let unpersisted = list(&value["unpersisted"]);
    if !unpersisted.is_empty() {
        text.push_str(&format!(
            "changed, and not in the file: {}\n",
            unpersisted.join(", ")
        ));
    }
    let drained = list(&value["drained"]);
    if !drained.is_empty() {
        text.push_str(&format!("drained: {}\n", drained.join(", ")));
    }
    text.push('\n');
    text.push_str(&sites(value)?);
    Some(text)
}

fn sites(value: &Value) -> Option<String> {
    let mut rows = vec![["SITE", "STATE", "WAITING", "BACKENDS", "IDLE"].map(str::to_owned)];
    for site in value["sites"].as_array()? {
        let states = list(&site["state"]);
        rows.push([
            site["name"].as_str()?.to_owned(),
            match states.is_empty() {
                true => "-".to_owned(),
                false => states.join(","),
            },
            site["waiting"].as_u64()?.to_string(),
            site["backends"].as_u64()?.to_string(),
            site["idle"].as_u64()?.to_string(),
        ]);
    }
    Some(table(&rows))
}

fn backends(value: &Value) -> Option<String> {
    let mut rows = vec![["NAME", "FROM", "AT", "STATE", "RESPONSES"].map(str::to_owned)];
    for backend in value["backends"].as_array()? {
        let text = |name: &str| backend[name].as_str().unwrap_or("-").to_owned();
        let responses = backend["responses"].as_u64();
        rows.push([
            text("name"),
            text("from"),
            text("at"),
            text("state"),
            responses.map_or_else(|| "-".to_owned(), |count| count.to_string()),
        ]);
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
    let (year, month, day) = swiftiply::x509::date(i64::try_from(day).unwrap_or(0));
    let (hour, minute) = (rest / 3600, rest % 3600 / 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}Z")
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
