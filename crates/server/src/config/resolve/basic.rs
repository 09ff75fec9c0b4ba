//! Who may use a route by name and password.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;
use tidegate_model::access::password::Password;
use tidegate_proxy::access::basic::{BasicSettings, User};

use super::{Context, read_bounded};
use crate::config::raw;
use crate::config::text::parse_tenant_id;
use crate::config::tree::Node;

/// Bytes of a file of names and hashes.
const FILE_BYTES_MAX: u64 = 1 << 20;

pub(super) fn basic(
    context: &mut Context<'_>,
    raw: &raw::RouteBasic,
    node: &Node,
) -> Option<Arc<BasicSettings>> {
    let mut users = HashMap::new();
    for (index, user) in raw.users.iter().enumerate() {
        let at = node.at("users").nth(index);
        if let Some(Err(why)) = user.tenant.as_deref().map(parse_tenant_id) {
            context.tell(at.at("tenant"), why);
        }
        let tenant = user.tenant.as_deref().map(Arc::from);
        if let Err(why) = add(&mut users, &user.name, &user.hash, tenant) {
            context.tell(at, why);
        }
    }
    if let Some(file) = &raw.file {
        context.name_file(&file.0);
        let at = node.at("file");
        match read_bounded(&file.0, FILE_BYTES_MAX).map(String::from_utf8) {
            Ok(Ok(text)) => {
                for (number, line) in text.lines().map(str::trim).enumerate() {
                    if line.is_empty() || line.starts_with('#') {
                        continue;
                    }
                    let (name, hash) = line.split_once(':').unwrap_or((line, ""));
                    if let Err(why) = add(&mut users, name, hash, None) {
                        context.tell(at, format!("{}, line {}: {why}", file.0.display(), number + 1));
                    }
                }
            }
            Ok(Err(_)) => context.tell(at, format!("{} is not UTF-8", file.0.display())),
            Err(why) => context.tell(at, format!("cannot read {}: {why}", file.0.display())),
        }
    }
    if users.is_empty() && raw.users.is_empty() {
        let help = "add users = [{ name = \"…\", hash = \"…\" }]; `tidegate key password` makes a hash";
        context.tell_with(node, "nobody may use the route", help);
    }
    if let Some(header) = &raw.user_header {
        super::access::sayable(context, std::slice::from_ref(header), node.at("user_header"), true);
    }
    let is_plain = raw.realm.bytes().all(|byte| (b' '..=b'~').contains(&byte) && !b"\"\\".contains(&byte));
    if !is_plain {
        context.tell(node.at("realm"), "a realm is ASCII, without quotes");
        return None;
    }
    let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", raw.realm);
    let user_header = raw.user_header.as_ref().map(|header| header.0.clone());
    Some(Arc::new(BasicSettings { challenge: HeaderValue::from_str(&challenge).ok()?, users, user_header }))
}

fn add(
    users: &mut HashMap<Arc<str>, User>,
    name: &str,
    hash: &str,
    tenant: Option<Arc<str>>,
) -> Result<(), String> {
    if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) {
        return Err(format!("`{}` is no name: it is empty, or has a colon", name.escape_debug()));
    }
    let password = Password::parse(hash).map_err(str::to_owned)?;
    match users.insert(Arc::from(name), User { password, tenant }) {
        Some(_) => Err(format!("`{name}` stands twice")),
        None => Ok(()),
    }
}
