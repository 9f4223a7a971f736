//! The verbs (CNI spec 1.1.0, section 2).

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use netd_model::api::Plan;
use netd_model::cni::{Added, Attachment, Collected, Gc, StatusOf};
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::daemon::{self, Failure};
use crate::delegate::Delegate;
use crate::env::{Env, Verb};
use crate::error::{self, CONFIG, CniError, DIFFERS, ENVIRONMENT, IO, LATER, UNAVAILABLE};
use crate::request;
use crate::result::{self, CniResult, NEWEST, VERSIONS};
use crate::{say, spool};

/// Answers a request: the document for standard output, if the verb has one.
pub fn answer(env: &Env, stdin: &[u8]) -> Result<Option<String>, CniError> {
    let verb = env.verb()?;
    if verb == Verb::Version {
        return version(stdin).map(Some);
    }
    let config = Config::parse(stdin)?;
    let request = Request { env, stdin, config };
    match verb {
        Verb::Add => request.add().map(Some),
        Verb::Del => request.del().map(|()| None),
        Verb::Check => request.check().map(|()| None),
        Verb::Gc => request.gc().map(|()| None),
        Verb::Status => request.status().map(|()| None),
        Verb::Version => Ok(None),
    }
}

fn version(stdin: &[u8]) -> Result<String, CniError> {
    let asked = if stdin.iter().all(u8::is_ascii_whitespace) {
        Value::Null
    } else {
        serde_json::from_slice(stdin).map_err(|error| {
            CniError::new(error::DECODE, format!("standard input is no JSON: {error}"))
        })?
    };
    let asked = asked["cniVersion"].as_str().unwrap_or(NEWEST);
    Ok(json!({"cniVersion": asked, "supportedVersions": VERSIONS}).to_string())
}

/// The text of `subnetFile`.
pub(crate) fn subnet_file(config: &Config) -> Result<Option<String>, CniError> {
    let Some(path) = &config.define.subnet_file else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        let text = format!(
            "subnetFile {}: {error}: it is written when this node has its prefix",
            path.display()
        );
        CniError::new(LATER, text)
    })?;
    Ok(Some(text))
}

struct Request<'a> {
    env: &'a Env,
    stdin: &'a [u8],
    config: Config,
}

impl Request<'_> {
    fn attachment(&self) -> Attachment {
        Attachment {
            container: self.env.container.clone(),
            ifname: self.env.ifname.clone(),
        }
    }

    fn delegate(&self) -> Option<Delegate<'_>> {
        self.config.foreign_ipam().map(|plugin| Delegate {
            plugin,
            env: self.env,
            stdin: self.stdin,
        })
    }

    /// A verb that came with a later version than the configuration's is not for this plugin.
    fn since(&self, verb: &str, version: &str) -> Result<(), CniError> {
        if result::has(self.config.version(), version)? {
            return Ok(());
        }
        let text = format!(
            "cniVersion {} of the configuration has no {verb}: it came with {version}",
            self.config.version()
        );
        Err(CniError::new(error::VERSION, text))
    }

    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, Failure> {
        daemon::ask(&self.config.socket(), path, body)
    }

    fn add(&self) -> Result<String, CniError> {
        self.check_netns()?;
        let previous = self
            .config
            .prev_result
            .as_ref()
            .map(CniResult::read)
            .transpose()?;
        // Everything that can be wrong with the request comes before anything is done.
        let file = subnet_file(&self.config)?;
        request::add(&self.config, self.env, file.as_deref(), None)?;
        let leased = self.delegate().map(|delegate| delegate.add()).transpose()?;
        let added = request::add(&self.config, self.env, file.as_deref(), leased.as_ref())
            .and_then(|body| {
                self.ask::<Added>("/v1/cni/add", &body)
                    .map_err(Failure::error)
            });
        let added = added.inspect_err(|_| {
            if let Some(Err(error)) = self.delegate().map(|delegate| delegate.run("DEL")) {
                say(&format!(
                    "netd-cni: the address stays leased: {}",
                    error.msg
                ));
            }
        })?;
        for warning in &added.warnings {
            say(&format!("netd-cni: {warning}"));
        }
        let result = request::result(&self.config, self.env, &added, previous);
        Ok(result.write(self.config.version())?.to_string())
    }

    /// The runtime's own namespace is not one to attach: it calls plugins in the host's.
    fn check_netns(&self) -> Result<(), CniError> {
        let path = Path::new(&self.env.netns);
        let target = std::fs::metadata(path).map_err(|error| {
            CniError::new(
                ENVIRONMENT,
                format!("CNI_NETNS {}: {error}", path.display()),
            )
        })?;
        let own = std::fs::metadata("/proc/thread-self/ns/net")
            .map_err(|error| CniError::new(IO, format!("own network namespace: {error}")))?;
        let same = (target.dev(), target.ino()) == (own.dev(), own.ino());
        if same && !self.env.netns_override {
            let text = format!(
                "CNI_NETNS {} is the namespace that the plugin runs in",
                path.display()
            );
            return Err(CniError::new(ENVIRONMENT, text));
        }
        Ok(())
    }

    /// Removes what is there; what is missing is removed. Without a daemon the removal is written down, and netd makes up
    /// for it when it starts.
    fn del(&self) -> Result<(), CniError> {
        let (socket, attachment) = (self.config.socket(), self.attachment());
        let own = match self.ask::<Map<String, Value>>("/v1/cni/del", &attachment) {
            Ok(_) => Ok(()),
            Err(Failure::Other(error)) => Err(error),
            Err(Failure::NoDaemon(absent)) => {
                let written = spool::put(&socket, &attachment);
                // One that has started meanwhile may have looked into the spool before.
                match (
                    written,
                    self.ask::<Map<String, Value>>("/v1/cni/del", &attachment),
                ) {
                    (Ok(file), Ok(_)) => {
                        let _ = file.map(std::fs::remove_file);
                        Ok(())
                    }
                    (Ok(_), Err(_)) => {
                        say(&format!(
                            "netd-cni: {}: the removal waits for it",
                            absent.msg
                        ));
                        Ok(())
                    }
                    (Err(_), Ok(_)) => Ok(()),
                    (Err(error), Err(_)) => Err(error),
                }
            }
        };
        // The address is free only when nothing has it any more.
        let lease = match self.delegate() {
            Some(delegate) if delegate.program().is_ok() => delegate.run("DEL").map(|_| ()),
            Some(delegate) => {
                // Who removed the program must not find the pod stuck for ever.
                say(&format!(
                    "netd-cni: ipam plugin {:?} is gone: its lease stays",
                    delegate.plugin
                ));
                Ok(())
            }
            None => Ok(()),
        };
        own.and(lease)
    }

    fn check(&self) -> Result<(), CniError> {
        self.since("CHECK", "0.4.0")?;
        let previous = self.config.prev_result.as_ref().ok_or_else(|| {
            CniError::new(CONFIG, "CHECK needs prevResult: the result of the last ADD")
        })?;
        let previous = CniResult::read(previous)?;
        let plan: Plan = self
            .ask("/v1/cni/check", &self.attachment())
            .map_err(Failure::error)?;
        if !plan.text.is_empty() {
            let text = format!(
                "interface {} of container {} is not as netd made it: {}",
                self.env.ifname,
                self.env.container,
                plan.text.join("; ")
            );
            return Err(CniError::new(DIFFERS, text)
                .with("netd repairs it by itself; netctl plan shows what is left"));
        }
        let is_own = |interface: &result::Interface| interface.name == self.env.ifname;
        if !self.config.is_ipam() && !previous.interfaces.iter().any(is_own) {
            let text = format!("prevResult has no interface {}", self.env.ifname);
            return Err(CniError::new(DIFFERS, text));
        }
        self.delegate()
            .map_or(Ok(()), |delegate| delegate.run("CHECK").map(|_| ()))
    }

    fn gc(&self) -> Result<(), CniError> {
        self.since("GC", "1.1.0")?;
        // Without a list nothing is known to be stale; an empty one says that all is.
        let valid = self.config.valid().ok_or_else(|| {
            CniError::new(
                CONFIG,
                "GC needs \"cni.dev/valid-attachments\": the list of what stays",
            )
        })?;
        let gc = Gc {
            cni_network: self.config.name.clone(),
            valid,
        };
        let own = self
            .ask::<Collected>("/v1/cni/gc", &gc)
            .map_err(Failure::error);
        let lease = self
            .delegate()
            .map_or(Ok(()), |delegate| delegate.run("GC").map(|_| ()));
        let mut errors = match own {
            Ok(collected) => collected.errors,
            Err(error) => vec![error.msg],
        };
        errors.extend(lease.err().map(|error| error.msg));
        if errors.is_empty() {
            return Ok(());
        }
        Err(CniError::new(error::FAILED, "not everything could be removed").with(errors.join("; ")))
    }

    fn status(&self) -> Result<(), CniError> {
        self.since("STATUS", "1.1.0")?;
        let unavailable = |error: CniError| CniError {
            code: UNAVAILABLE,
            ..error
        };
        let file = subnet_file(&self.config).map_err(unavailable)?;
        // What a foreign IPAM would choose is not known before an ADD: then the network may be one to be made.
        let target = request::target(&self.config, file.as_deref(), None)?;
        let of = StatusOf {
            network: target.network,
            define: target.define,
        };
        let asked = self.ask::<Map<String, Value>>("/v1/cni/status", &of);
        asked.map_err(|failure| unavailable(failure.error()))?;
        self.delegate()
            .map_or(Ok(()), |delegate| delegate.run("STATUS").map(|_| ()))
    }
}
