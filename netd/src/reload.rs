//! SIGHUP: the configuration is read again. What can change at run time does; the rest is named.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use netd_model::error::Error;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tracing_subscriber::EnvFilter;

use crate::api::Notices;
use crate::config::{Args, Config, LogFormat};
use crate::names::ConfPath;

/// How much is logged, while the daemon runs.
pub(crate) struct LogLevel(Box<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevel")
    }
}

impl LogLevel {
    /// Starts logging to standard error.
    pub(crate) fn init(config: &Config) -> Self {
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter(config))
            .with_writer(std::io::stderr)
            .with_ansi(false);
        // A second subscriber in one process: a test that runs two daemons keeps the first.
        match config.log_format {
            LogFormat::Text => {
                let builder = builder.with_target(false).with_filter_reloading();
                let handle = builder.reload_handle();
                let _ = builder.try_init();
                Self(Box::new(move |filter| handle.reload(filter).is_ok()))
            }
            LogFormat::Json => {
                let builder = builder.json().with_filter_reloading();
                let handle = builder.reload_handle();
                let _ = builder.try_init();
                Self(Box::new(move |filter| handle.reload(filter).is_ok()))
            }
        }
    }

    fn set(&self, config: &Config) {
        if !(self.0)(filter(config)) {
            tracing::warn!("the log level cannot be changed: restart netd");
        }
    }
}

fn filter(config: &Config) -> EnvFilter {
    match &config.log_level {
        Some(level) => EnvFilter::new(level),
        None => EnvFilter::try_from_env("NETD_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
    }
}

/// What a reload may touch.
#[derive(Debug)]
pub(crate) struct Reload {
    args: Args,
    config: Config,
    log_level: LogLevel,
    resolv_conf: ConfPath,
    /// Wakes those who read it.
    pub(crate) resolv_conf_changed: Arc<Notify>,
    notices: Notices,
}

impl Reload {
    pub(crate) fn new(
        args: Args,
        config: Config,
        log_level: LogLevel,
        resolv_conf: ConfPath,
        notices: Notices,
    ) -> Self {
        Self {
            args,
            config,
            log_level,
            resolv_conf,
            resolv_conf_changed: Arc::default(),
            notices,
        }
    }

    /// Where files declare networks.
    pub(crate) fn networks_dir(&self) -> PathBuf {
        self.config.networks_dir.clone()
    }

    /// Reads the configuration again.
    pub(crate) async fn reload(&mut self) {
        let args = self.args.clone();
        // The file may lie on a disk that does not answer.
        let loaded = match spawn_blocking(move || Config::load(args)).await {
            Ok(loaded) => loaded,
            Err(error) => return tracing::error!(%error, "the configuration was not read"),
        };
        let notices = self.take(loaded);
        self.notices.set(notices);
        self.resolv_conf_changed.notify_one();
    }

    /// Takes over what can change; the answer is what `status` shall warn of.
    fn take(&mut self, loaded: Result<Config, Error>) -> Vec<String> {
        let new = match loaded {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(%error, "the new configuration is not used");
                return vec![format!(
                    "the configuration could not be read again, and the old one is in use: {}; correct it, then \
                     `systemctl reload netd`",
                    error.message
                )];
            }
        };
        self.config.networks_dir.clone_from(&new.networks_dir);
        if new.resolv_conf != self.config.resolv_conf {
            self.resolv_conf.store(Arc::new(new.resolv_conf.clone()));
            self.config.resolv_conf.clone_from(&new.resolv_conf);
        }
        if new.log_level != self.config.log_level {
            self.log_level.set(&new);
            self.config.log_level.clone_from(&new.log_level);
        }
        let waiting = self.config.needs_restart(&new);
        tracing::info!(needs_restart = ?waiting, "configuration read again");
        let warn = |name| {
            format!(
                "{name} was changed in the configuration and needs a restart: `systemctl restart netd`"
            )
        };
        waiting.into_iter().map(warn).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        let config = |words: &[&str]| Config::load(Args::parse_from([&["netd"], words].concat()));
        let old = config(&[]).unwrap();
        let mut reload = Reload::new(
            Args::default(),
            old.clone(),
            LogLevel(Box::new(|_| true)),
            crate::names::conf_path(&old.resolv_conf),
            Notices::default(),
        );
        let broken = reload.take(config(&["--log-level=loud"]));
        assert!(
            broken[0].contains("loud") && broken[0].contains("reload netd"),
            "{broken:?}"
        );
        assert_eq!(reload.config, old);
        let named = reload.take(config(&["--resolv-conf=/r", "--state-dir=/s"]));
        assert_eq!(named.len(), 1);
        assert!(
            named[0].starts_with("state-dir ") && named[0].contains("restart"),
            "{named:?}"
        );
        assert_eq!(*reload.resolv_conf.load_full(), std::path::Path::new("/r"));
        assert_eq!(reload.config.state_dir, old.state_dir, "still in use");
        assert!(reload.take(config(&["--resolv-conf=/r"])).is_empty());
    }
}
