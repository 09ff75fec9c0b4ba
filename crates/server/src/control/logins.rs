//! What metrics say of logins: of each provider, what became of them, and whether it answers.

use tidegate_proxy::access::login::{LoginOutcome, Providers};

use crate::telemetry::{Exposition, LOGIN_PROVIDER_UP, LOGINS};

/// Writes it. Providers are bounded by the configuration.
pub fn write(out: &mut Exposition, providers: &Providers) {
    let providers = providers.all();
    out.family(&LOGINS);
    for provider in &providers {
        for (outcome, count) in LoginOutcome::ALL.iter().zip(provider.counts()) {
            let labels = [("login", &*provider.settings().name), ("outcome", outcome.name())];
            out.sample(LOGINS.name, &labels, count);
        }
    }
    out.family(&LOGIN_PROVIDER_UP);
    for provider in &providers {
        let labels = [("login", &*provider.settings().name)];
        out.sample(LOGIN_PROVIDER_UP.name, &labels, u8::from(provider.is_up()));
    }
}
