//! An attach on its way, and its second try with other host ports. Pure.

use netd_model::error::{Code, Error};
use netd_model::net::Proto;
use netd_model::request::{Attach, Publish};

use crate::kernel::Sandbox;
use crate::reconcile::job::held_port;

/// How often netd chooses host ports for one request: each time another program holds one of them.
const CHOICES: usize = 10;

/// An attach that is to be made.
#[derive(Debug)]
pub(crate) struct Making {
    pub(crate) attach: Attach,
    pub(crate) sandbox: Sandbox,
    /// Host ports that another program turned out to hold.
    pub(crate) avoid: Vec<(Proto, u16)>,
}

impl Making {
    pub(crate) fn new(attach: Attach, sandbox: Sandbox) -> Self {
        Self {
            attach,
            sandbox,
            avoid: Vec::new(),
        }
    }

    /// What is needed for another choice of host ports, where netd has any.
    pub(crate) fn again(&self) -> Option<Box<Self>> {
        let has_choice = self.attach.publish.iter().any(|p| p.exact().is_none());
        if !has_choice || self.avoid.len() + 1 >= CHOICES {
            return None;
        }
        // Without a descriptor for the second try there is only the first.
        let sandbox = self.sandbox.try_clone().ok()?;
        Some(Box::new(Self {
            attach: self.attach.clone(),
            sandbox,
            avoid: self.avoid.clone(),
        }))
    }

    /// The same without the port of an error; none if the error is not about a port that netd chose.
    pub(crate) fn without(mut self, error: &Error) -> Option<Self> {
        let held = (error.code == Code::PortInUse)
            .then(|| held_port(error))
            .flatten()?;
        let asked = self.attach.publish.iter().filter_map(Publish::exact);
        if asked.into_iter().any(|p| (p.proto, p.host_port) == held) {
            return None;
        }
        self.avoid.push(held);
        Some(self)
    }
}
