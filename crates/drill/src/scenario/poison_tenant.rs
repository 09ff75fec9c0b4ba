//! A tenant whose requests kill the server that gets them.

use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Behaviour, Harm, Poison, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::Source;
use crate::run::{RunError, Setting, Side};
use crate::told::share;

/// The drill.
pub const DRILL: Drill = Drill {
    name: "poison-tenant",
    summary: "Eight servers, forty tenants; one tenant's requests kill the server that gets them, for a second each time.",
    rule: "Protected, at least nine tenants of ten are answered well at least 98 % of the time during the attack. \
           Unprotected, fewer than half of them.",
    seconds: 10.0,
    fault: Window { from: 2.0, to: 8.0 },
    fault_name: "poison",
    about: About::Exchanges,
    victims: "tenant",
    side,
    has_baseline: false,
    judge,
};

/// Servers.
const SERVERS: u64 = 8;
/// Ordinary tenants.
const TENANTS: usize = 40;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let behaviour = Behaviour {
        slots: 16,
        service: Service::Exponential(Duration::from_millis(10)),
        poison: Some(Poison { tenant: "toxic".to_owned(), harm: Harm::Crash(Duration::from_secs(1)) }),
        ..Behaviour::default()
    };
    let apps = apps(setting, SERVERS, &behaviour)?;
    let shard = match kind {
        Kind::Off => "",
        Kind::On | Kind::Baseline => "shuffle_shard = 2\n",
    };
    let config = format!(
        "[tenants]\nfrom = [{{ header = \"x-tenant\" }}]\n\n[upstream.app]\nendpoints = {}\n{shard}\
         outlier = {{ consecutive = 2, base = \"1s\" }}\n\n\
         [[route]]\nname = \"app\"\nupstream = \"app\"\nretry = {{ tries = 2 }}\n",
        endpoints(&apps)
    );
    let tenant = |number: usize| {
        let name = format!("tenant {number}");
        Source::steady(&name, 10.0).of(&format!("tenant-{number}"))
    };
    let mut sources: Vec<Source> = (0..TENANTS).map(tenant).collect();
    let attack = DRILL.fault.at(setting.scale);
    let rates = vec![(attack.start, 30.0), (attack.end, 0.0)];
    sources.push(Source { rates, ..Source::steady("toxic", 0.0).of("toxic") });
    Ok(DRILL.undisturbed(setting, apps, config, sources))
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    /// A tenant is well off if so many of its requests are answered well.
    const WELL: f64 = 0.98;
    let attack = DRILL.fault.at(setting.scale);
    let well = |driven: &crate::load::Driven| {
        let names = driven.sources.iter().filter(|name| name.starts_with("tenant"));
        // The whole name, so that tenant 1 is not tenant 10 too.
        let well = names.filter(|name| {
            let number = driven.source(name);
            let mut own = driven.due("", attack.clone()).filter(|asked| Some(asked.source) == number);
            let (mut all, mut good) = (0u32, 0u32);
            own.by_ref().for_each(|asked| {
                all += 1;
                good += u32::from(asked.end == crate::load::End::Good);
            });
            f64::from(good) >= WELL * f64::from(all)
        });
        well.count() as f64 / TENANTS as f64
    };
    let (lost, held) = (well(&runs.off.driven), well(&runs.on.driven));
    let crashed = |run: &crate::run::Run| run.apps.iter().filter(|counts| counts.crashes > 0).count();
    Judged {
        passed: held >= 0.9 && lost < 0.5,
        reason: format!(
            "{} of the tenants were untouched (98 % answered well) with the protection, {} without",
            share(held),
            share(lost)
        ),
        told: vec![
            format!(
                "Unprotected, each poisonous request, and each retry of one, found another server: {} of {SERVERS} died, \
                 {} times in all, and what the other tenants had under way there died with them.",
                crashed(&runs.off),
                runs.off.sum(|counts| counts.crashes)
            ),
            format!(
                "Protected, the tenant has a shard of two servers (`shuffle_shard`) and killed {} ({} times). Whoever \
                 shares one of them with it has another one, and was tried again there; only who shares both is down with \
                 it, of 28 pairs one. It does not spill over: `upstream.shard-down` is its own refusal.",
                crashed(&runs.on),
                runs.on.sum(|counts| counts.crashes)
            ),
        ],
    }
}
