//! `token new`: makes a token for the admin API. The secret is shown this once; what the server keeps is its digest.

use std::{collections::BTreeSet, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use jiff::{Timestamp, Unit};
use serde::Serialize;

use super::{
    failure::{Exit, Failure},
    output::{BOLD, Output, Page, Show},
    parse,
};
use crate::{
    admin::{TokenEntry, api::Role, mint},
    switch::AppName,
};

/// `tealgate token`
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token, and the entry for the server's token file
    #[command(after_help = "\
The token is shown once and kept nowhere: only its SHA-256 goes into the server's token file (`admin.tokens`). Holders \
send it as `Authorization: Bearer TOKEN`; this program takes it from TEALGATE_TOKEN or --token-file.

Examples:
  tealgate token new --name ann --role operator --app shop --expires 90d
  tealgate token new --name pipeline --role operator -o json")]
    New(New),
}

/// `tealgate token new`
#[derive(Debug, Args)]
pub(crate) struct New {
    /// Who will hold it; the name that goes into the journal
    #[arg(long, value_name = "NAME")]
    name: String,
    /// What its holder may do; each role includes those before it
    #[arg(long, value_name = "ROLE")]
    role: RoleName,
    /// An app it is limited to; repeat for each. Default: all apps
    #[arg(long = "app", value_name = "APP")]
    apps: Vec<AppName>,
    /// When it ends, e.g. 90d. Default: never
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    expires: Option<Duration>,
}

/// The roles as they are typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RoleName {
    /// Look
    Viewer,
    /// Deploy, promote, roll back, abort, pin
    Operator,
    /// Reload, and set gates aside
    Admin,
}

/// A new token with its entry.
#[derive(Serialize)]
struct Minted {
    token: String,
    entry: TokenEntry,
}

impl Token {
    /// Makes a token and prints it.
    pub(crate) fn run(self, output: Output) -> Result<Exit, Failure> {
        let Self::New(new) = self;
        if new.name.is_empty() || new.name.chars().any(char::is_control) {
            return Err(Failure::usage("--name wants a name that can be read in a log"));
        }
        let role = match new.role {
            RoleName::Viewer => Role::Viewer,
            RoleName::Operator => Role::Operator,
            RoleName::Admin => Role::Admin,
        };
        let expires = new.expires.map(|after| Timestamp::now().checked_add(after)?.round(Unit::Second));
        let expires = expires.transpose().map_err(|_| Failure::usage("--expires is too far in the future"))?;
        let apps: BTreeSet<_> = new.apps.into_iter().collect();
        let apps = (!apps.is_empty()).then_some(apps);
        let (token, entry) = mint(&new.name, role, apps, expires)
            .map_err(|_| Failure::new(Exit::Failed, "cannot make a token").detail("the system gives no randomness"))?;
        output.show(&Minted { token, entry })?;
        Ok(Exit::Done)
    }
}

impl Show for Minted {
    /// The token itself, so that `TEALGATE_TOKEN=$(tealgate token new … -o name)` works.
    fn names(&self) -> Vec<String> {
        vec![self.token.clone()]
    }

    fn text(&self, page: &mut Page) {
        let token = page.paint(BOLD, &self.token);
        page.line(format!("token (shown this once): {token}"));
        page.line("");
        page.line("entry for the server's token file, under `tokens:`");
        // A list of one, so that it can be pasted as it is.
        let entry = serde_saphyr::to_string(&[&self.entry]).unwrap_or_default();
        entry.lines().for_each(|line| page.line(format!("  {line}")));
    }
}
