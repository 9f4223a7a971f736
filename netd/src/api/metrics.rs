//! `/metrics`: counters in the text format of Prometheus.
//!
//! Parts of the daemon that count something implement [`Collect`] and are added to the [`Registry`] at start; they are
//! asked when somebody reads. The text is written by hand: a line for each value is all that the format is.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};

use super::ApiState;
use super::input::{Nothing, Params};

/// Something that counts. Must not wait: it is called on the runtime.
pub trait Collect: fmt::Debug + Send + Sync {
    /// Writes its values.
    fn collect(&self, text: &mut Text);
}

/// All that count. Cloning shares.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<Vec<Arc<dyn Collect>>>>);

impl Registry {
    /// Adds one.
    pub fn add(&self, part: Arc<dyn Collect>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(part);
    }

    /// What all of them count, now.
    pub fn text(&self) -> String {
        let parts = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut text = Text::default();
        parts.iter().for_each(|part| part.collect(&mut text));
        text.0
    }
}

/// The page in the making.
#[derive(Debug, Default)]
pub struct Text(String);

/// How a value changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until a restart.
    Counter,
    /// Comes and goes.
    Gauge,
    /// Counts by size; its values end with `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl Text {
    /// Begins a metric; its values follow.
    pub fn metric(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One value.
    pub fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.0.push_str(name);
        for (number, (label, text)) in labels.iter().enumerate() {
            self.0.push(if number == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for letter in text.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

pub(super) async fn metrics(State(state): State<ApiState>, _: Params<Nothing>) -> Response {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4")],
        state.metrics.text(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Part;

    impl Collect for Part {
        fn collect(&self, text: &mut Text) {
            text.metric("netd_things", Kind::Gauge, "Things.");
            text.value("netd_things", &[], 3);
            text.value("netd_things", &[("of", "a\"b\\c\n"), ("in", "x")], 0.5);
        }
    }

    #[test]
    fn values_are_written_as_the_format_says() {
        let registry = Registry::default();
        assert_eq!(registry.text(), "");
        registry.add(Arc::new(Part));
        assert_eq!(
            registry.text(),
            "# HELP netd_things Things.\n# TYPE netd_things gauge\nnetd_things 3\n\
             netd_things{of=\"a\\\"b\\\\c\\n\",in=\"x\"} 0.5\n"
        );
    }
}
