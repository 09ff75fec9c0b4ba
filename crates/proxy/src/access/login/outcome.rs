//! What became of logins and sessions, as receipts and metrics tell it.

use tidegate_model::refusal::{self, Refusal};

/// What became of a login, or of a request that wants a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// A request had a session.
    Session,
    /// A browser was sent to the provider.
    Sent,
    /// Somebody logged in.
    LoggedIn,
    /// Somebody logged out.
    LoggedOut,
    /// A session's tokens were asked for anew.
    Refreshed,
    /// The provider would not give any more: the session has ended.
    Ended,
    /// The provider could not be asked, and the session went on all the same.
    Kept,
    /// There is no session, and no page to be shown.
    Required,
    /// The account may not.
    Forbidden,
    /// What came back is not good.
    Invalid,
    /// The provider could not be asked.
    Unavailable,
}

impl LoginOutcome {
    /// All of them.
    pub const ALL: [LoginOutcome; 11] = [
        LoginOutcome::Session,
        LoginOutcome::Sent,
        LoginOutcome::LoggedIn,
        LoginOutcome::LoggedOut,
        LoginOutcome::Refreshed,
        LoginOutcome::Ended,
        LoginOutcome::Kept,
        LoginOutcome::Required,
        LoginOutcome::Forbidden,
        LoginOutcome::Invalid,
        LoginOutcome::Unavailable,
    ];

    /// Its name in receipts and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LoginOutcome::Session => "session",
            LoginOutcome::Sent => "sent",
            LoginOutcome::LoggedIn => "logged-in",
            LoginOutcome::LoggedOut => "logged-out",
            LoginOutcome::Refreshed => "refreshed",
            LoginOutcome::Ended => "ended",
            LoginOutcome::Kept => "kept",
            LoginOutcome::Required => "required",
            LoginOutcome::Forbidden => "forbidden",
            LoginOutcome::Invalid => "invalid",
            LoginOutcome::Unavailable => "unavailable",
        }
    }

    /// That of a refusal.
    #[must_use]
    pub fn of(refusal: &Refusal) -> LoginOutcome {
        match refusal.kind.code {
            code if code == refusal::LOGIN_REQUIRED.code => LoginOutcome::Required,
            code if code == refusal::LOGIN_FORBIDDEN.code => LoginOutcome::Forbidden,
            code if code == refusal::LOGIN_UNAVAILABLE.code => LoginOutcome::Unavailable,
            _ => LoginOutcome::Invalid,
        }
    }
}
