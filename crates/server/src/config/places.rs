//! Where in the files stands what can only fail when a configuration is put into force: addresses that cannot be
//! listened on, an access log that cannot be written. It is told like every other problem: with line and column.

use std::net::SocketAddr;
use std::sync::Arc;

use super::problem::{Place, Problem, Problems, Source};
use super::raw;
use super::settings::ControlAddress;
use super::tree::Node;

/// The places of a configuration, with the files to show them in.
#[derive(Clone, Debug, Default)]
pub struct Places {
    sources: Arc<[Source]>,
    listeners: Vec<(SocketAddr, Place)>,
    control: Vec<(ControlAddress, Place)>,
    access_log: Option<Place>,
    store: Option<Place>,
}

/// What a failure is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    /// A listener's address.
    Listener(SocketAddr),
    /// An address of the control API.
    Control(ControlAddress),
    /// The access log's file.
    AccessLog,
    /// The store's directory.
    Store,
    /// The configuration as a whole.
    Whole,
}

/// Why a configuration cannot be put into force.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What it is about.
    pub spot: Spot,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl Failure {
    /// A failure of this.
    #[must_use]
    pub fn new(spot: Spot, message: impl Into<String>) -> Failure {
        Failure { spot, message: message.into(), help: None }
    }

    /// The same with a way to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Failure {
        self.help = Some(help.into());
        self
    }
}

impl Places {
    /// The places of this configuration, in the tree that it was made of.
    pub(super) fn of(raw: &raw::Config, tree: &Node, sources: Vec<Source>) -> Places {
        let listen = tree.at("listen");
        let address = |listener: &raw::Listener| match listener {
            raw::Listener::Address(address) => address.0,
            raw::Listener::Table(table) => table.address.0,
        };
        let listeners = [("http", &raw.listen.http), ("https", &raw.listen.https)];
        let listeners = listeners.into_iter().flat_map(|(key, list)| {
            let places = list.iter().enumerate().map(move |(index, listener)| {
                (address(listener), listen.at(key).nth(index).at("address").place.clone())
            });
            places.collect::<Vec<_>>()
        });
        let nodes = raw.cluster.iter();
        let nodes = nodes.map(|cluster| (cluster.listen.0, tree.at("cluster").at("listen").place.clone()));
        // Where an address is the default, there is no place to show.
        let control = tree.get("control").and_then(|control| control.get("listen"));
        let control = control.into_iter().flat_map(|node| {
            let list = raw.control.listen.iter().enumerate();
            list.map(|(index, address)| (address.0.clone(), node.nth(index).place.clone()))
        });
        Places {
            listeners: listeners.chain(nodes).collect(),
            control: control.collect(),
            access_log: tree.get("log").and_then(|log| log.get("access")).map(|node| node.place.clone()),
            store: tree.get("store").and_then(|store| store.get("url")).map(|node| node.place.clone()),
            sources: sources.into(),
        }
    }

    /// These failures as problems of the configuration.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn problems(&self, failures: Vec<Failure>) -> Problems {
        let problem =
            |Failure { spot, message, help }| Problem { place: self.find(&spot), message, note: None, help };
        Problems::new(self.sources.to_vec(), failures.into_iter().map(problem).collect())
    }

    fn find(&self, spot: &Spot) -> Option<Place> {
        match spot {
            Spot::Listener(wanted) => {
                self.listeners.iter().find(|(address, _)| address == wanted).map(|(_, place)| place.clone())
            }
            Spot::Control(wanted) => {
                self.control.iter().find(|(address, _)| address == wanted).map(|(_, place)| place.clone())
            }
            Spot::AccessLog => self.access_log.clone(),
            Spot::Store => self.store.clone(),
            Spot::Whole => None,
        }
    }
}
