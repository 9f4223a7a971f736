//! `netctl events`: each event is shown when its line comes.

use netd_model::api::Event;
use netd_model::error::{Code, Error};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::args::Format;
use super::client::segment;
use super::failure::Failure;
use super::output::{Terminal, clean, encode};
use super::session::{Page, Session};

impl Session {
    pub(super) fn events(
        &self,
        terminal: &mut Terminal<'_>,
        follow: bool,
        since: Option<&str>,
    ) -> Result<Page, Failure> {
        let mut target = format!("/v1/events?follow={follow}");
        if let Some(since) = since {
            let since = absolute(since, OffsetDateTime::now_utc())?;
            target.push_str("&since=");
            target.push_str(&segment(&since));
        }
        let mut rest = Vec::new();
        let mut failure = None;
        let take = |piece: &[u8]| {
            rest.extend_from_slice(piece);
            failure = self.show_lines(&mut rest, terminal).err();
            failure.is_none()
        };
        let reply = self.runtime.block_on(self.client.stream(&target, take))?;
        self.judge(reply)?;
        failure.map_or_else(|| Ok(Page::default()), Err)
    }

    /// Shows the whole lines and keeps what follows the last of them.
    fn show_lines(&self, bytes: &mut Vec<u8>, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            let text = match self.format {
                Format::Json => String::from_utf8_lossy(&line).into_owned(),
                Format::Table => row(&self.read(&line)?),
                Format::Yaml => {
                    let event: Event = self.read(&line)?;
                    let text = encode(Format::Yaml, &event).transpose()?;
                    format!("---\n{}", text.unwrap_or_default())
                }
            };
            terminal.result(&text)?;
        }
        Ok(())
    }
}

fn row(event: &Event) -> String {
    let by = event.by.as_ref().map_or_else(String::new, |by| {
        format!(" (by {}, process {})", by.name, by.pid)
    });
    // Seconds do for people.
    let time = event.time.split('.').next().unwrap_or_default();
    let time = time.trim_end_matches('Z');
    let text = format!(
        "{time}Z  {:<15}  {}  {}{by}",
        event.kind, event.object, event.message
    );
    clean(text.trim_end()) + "\n"
}

/// `90s`, `10m` and `2h` are times before now; all else goes to the daemon as it is.
fn absolute(since: &str, now: OffsetDateTime) -> Result<String, Failure> {
    let unit = |letter| match letter {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        _ => None,
    };
    let Some((number, seconds)) = since
        .char_indices()
        .last()
        .and_then(|(at, letter)| Some((&since[..at], unit(letter)?)))
    else {
        return Ok(since.to_owned());
    };
    let too_long = || {
        let text = format!("since {since:?} is no duration: give a number with s, m or h");
        Failure::from(Error::new(Code::InvalidOpt, text))
    };
    let number: u32 = number.parse().map_err(|_| too_long())?;
    let then = now.checked_sub(Duration::seconds(i64::from(number) * seconds));
    let then = then.ok_or_else(too_long)?;
    then.format(&Rfc3339)
        .map_err(|error| Error::new(Code::Internal, error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_times_before_now() {
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        for (since, told) in [
            ("90s", "2023-11-14T22:11:50Z"),
            ("10m", "2023-11-14T22:03:20Z"),
            ("2h", "2023-11-14T20:13:20Z"),
            ("17", "17"),
            ("2023-11-14T22:03:20Z", "2023-11-14T22:03:20Z"),
            ("", ""),
        ] {
            assert_eq!(absolute(since, now).unwrap(), told, "{since}");
        }
        for since in ["h", "-1h", "99999999999s", "1.5m", "é5h"] {
            assert!(absolute(since, now).is_err(), "{since}");
        }
    }
}
