//! Lists for people: columns without borders, as `docker ps` has them.

use comfy_table::{Table, presets};
use netd_model::api;

use super::output::clean;
use super::view::{address, ports, yes};

/// `network ls`.
pub(super) fn networks(list: &[api::Network]) -> String {
    let header = [
        "NAME",
        "ID",
        "DRIVER",
        "SUBNETS",
        "INTERNAL",
        "MTU",
        "INTERFACE",
        "CONTAINERS",
    ];
    columns(
        Some(&header),
        list.iter().map(|network| {
            let subnets: Vec<&str> = network
                .subnets
                .iter()
                .map(|subnet| subnet.subnet.as_str())
                .collect();
            vec![
                network.name.clone(),
                short(&network.id),
                network.driver.clone(),
                subnets.join(", "),
                yes(network.internal).to_owned(),
                network.mtu.to_string(),
                network.interface.to_string(),
                network.endpoints.len().to_string(),
            ]
        }),
    )
}

/// `node ls`.
pub(super) fn nodes(list: &[api::Node]) -> String {
    let header = [
        "NAME",
        "ADDRESS",
        "STATE",
        "LAST SEEN",
        "NETWORKS",
        "VERSION",
    ];
    let row = |node: &api::Node| {
        vec![
            node.name.clone(),
            node.address.to_string(),
            node.state.clone(),
            node.last_seen
                .map_or_else(String::new, |seconds| format!("{seconds} s ago")),
            node.networks.join(", "),
            node.version.clone(),
        ]
    };
    columns(Some(&header), list.iter().map(row))
}

/// `ps`.
pub(super) fn containers(list: &[api::Container]) -> String {
    let header = ["NAME", "ID", "NETWORKS", "PORTS", "NETNS"];
    columns(
        Some(&header),
        list.iter().map(|container| {
            let networks: Vec<String> = container.endpoints.iter().map(membership).collect();
            vec![
                container.name.clone(),
                short(&container.id),
                networks.join(", "),
                ports(&container.ports).join(", "),
                container.netns.clone(),
            ]
        }),
    )
}

/// A network with the container's addresses on it.
fn membership(endpoint: &api::Endpoint) -> String {
    let addresses = [&endpoint.ipv4, &endpoint.ipv6];
    addresses
        .into_iter()
        .flatten()
        .fold(endpoint.network.clone(), |mut text, cidr| {
            text.push(' ');
            text.push_str(address(cidr));
            text
        })
}

/// Rows in columns of equal width, a line each, without spaces at their ends.
pub(super) fn columns(
    header: Option<&[&str]>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if let Some(header) = header {
        table.set_header(header.iter().copied());
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The first 12 digits of an id.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}
