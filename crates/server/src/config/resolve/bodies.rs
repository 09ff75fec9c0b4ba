//! What routes do with bodies.

use tidegate_model::coding::Coding;
use tidegate_model::compress::{Terms, Types};
use tidegate_proxy::coding::{CodingSettings, CompressSettings, DecompressSettings, Levels};
use tidegate_proxy::settings::Action;

use super::Context;
use crate::config::raw::{self, CodingName};
use crate::config::tree::Node;

/// Both, where there is any. A webhook is verified and kept as it was sent; what Tidegate says itself reads no body.
pub fn coding(
    context: &mut Context<'_>,
    raw: &raw::Route,
    node: &Node,
    action: &Action,
) -> Option<Box<CodingSettings>> {
    let compress = match action {
        Action::Forward(_) | Action::Respond(_) => {
            raw.compress.on().and_then(|raw| compress(context, &raw, node.at("compress")))
        }
        Action::Redirect { .. } | Action::Deliveries(_) | Action::Incoming(_) => None,
    };
    let decompress = match action {
        Action::Forward(_) => raw.decompress.on().map(|raw| decompress(context, &raw, node.at("decompress"))),
        _ => None,
    };
    let any = compress.is_some() || decompress.is_some();
    any.then(|| Box::new(CodingSettings { compress, decompress }))
}

fn compress(context: &mut Context<'_>, raw: &raw::Compress, node: &Node) -> Option<CompressSettings> {
    let codings: Vec<Coding> = raw.codings.iter().copied().map(coding_of).collect();
    for (place, coding) in codings.iter().enumerate() {
        if codings[..place].contains(coding) {
            context.tell(node.at("codings").nth(place), format!("`{}` stands twice", coding.token()));
        }
    }
    let types = match Types::of(&raw.types) {
        Ok(types) => types,
        Err(place) => {
            let (message, help) =
                ("that is no content type", "write \"text/html\", \"text/*\", or \"*+json\" for a suffix");
            context.tell_with(node.at("types").nth(place), message, help);
            return None;
        }
    };
    let terms = Terms { codings, types, bytes_min: raw.min_size.0, cross_site: raw.cross_site };
    let levels = Levels { gzip: raw.gzip, br: raw.br, zstd: raw.zstd };
    Some(CompressSettings { terms, levels, offload: raw.offload })
}

fn coding_of(name: CodingName) -> Coding {
    match name {
        CodingName::Zstd => Coding::Zstd,
        CodingName::Br => Coding::Brotli,
        CodingName::Gzip => Coding::Gzip,
    }
}

fn decompress(context: &mut Context<'_>, raw: &raw::Decompress, node: &Node) -> DecompressSettings {
    if raw.max_size.0 == 0 {
        context.tell(node.at("max_size"), "`max_size` is above zero: else nothing could be decoded");
    }
    DecompressSettings { bytes_max: raw.max_size.0, ratio_max: raw.max_ratio }
}
