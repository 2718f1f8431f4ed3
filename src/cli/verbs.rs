//! What can be typed: the global options and the verbs, with the help that is their manual. The arguments of each verb
//! stand with what it does.

use std::{path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand,
    builder::styling::{AnsiColor, Styles},
};

use super::{
    act, client::Address, door, look, output::Format, packaging, parse::duration, preview, serve, smoke, token, wait,
};
use crate::demo;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// A reverse proxy and load balancer whose job is the switch
///
/// Tealgate is a reverse proxy and load balancer whose job is the switch. It fronts an application, holds its active and
/// its preview pool of endpoints behind one atomic pointer, and flips all live traffic from one revision to another, or
/// back, at once and without losing a request.
///
/// `tealgate demo` shows it in a minute and needs nothing. `tealgate serve -c FILE` runs it. The other verbs talk to a
/// running server through its admin API.
#[derive(Debug, Parser)]
#[command(name = "tealgate", version, styles = STYLES, max_term_width = 100, after_help = EXIT_CODES)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; live traffic is unchanged
  2  the command line or the configuration is wrong
  3  refused by a gate or a policy
  4  timed out
  5  conflict: the generation, a pin, or another flip
  6  promoted, then rolled back
  7  not authorised
  8  not reachable

A rollout on one screen:
  tealgate deploy shop --revision green --endpoint 127.0.0.1:9011 --endpoint 127.0.0.1:9012
  tealgate wait shop --for preview-ready --revision green --timeout 2m
  tealgate promote shop --revision green --wait drained
  tealgate rollback shop --reason \"checkout is slow\"";

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// The form of the output
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t)]
    pub(super) output: Format,
    /// The server: http://HOST:PORT or unix:PATH. Default: the server's Unix socket in its usual place, else
    /// http://127.0.0.1:7180
    #[arg(long, global = true, env = "TEALGATE_SERVER", value_name = "URL|unix:PATH")]
    pub(super) server: Option<Address>,
    /// A file that holds the token; without it, the environment variable TEALGATE_TOKEN. A Unix socket needs none
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// How long to wait, e.g. 500ms, 10s, 5m. Default: 30s for an answer, 10m for `wait` and `--wait drained`
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the proxy
    #[command(after_help = "\
Signals: TERM and QUIT drain and end; INT drains, and a second INT ends at once; HUP reads the file again.

Examples:
  tealgate serve -c /etc/tealgate/tealgate.yaml
  tealgate check -c tealgate.yaml && kill -HUP \"$(pidof tealgate)\"")]
    Serve(serve::Serve),
    /// See it work: two coloured upstreams, a proxy between, and a light load, all in this process
    Demo(demo::Options),
    /// Check a configuration file and show what it says
    #[command(after_help = "\
Ends with 0 if the file is good and with 2 if it is not; then each mistake is shown with its place and what would be right.

Examples:
  tealgate check -c tealgate.yaml")]
    Check(serve::Check),
    /// Print the JSON Schema of the configuration file
    #[command(after_help = "\
Examples:
  tealgate schema > tealgate.schema.json     # then, as the file's first line:
  # yaml-language-server: $schema=tealgate.schema.json")]
    Schema,
    #[command(flatten)]
    Remote(Remote),
    /// Make tokens for the admin API over TCP
    #[command(subcommand)]
    Token(token::Token),
    /// Ask a server on this machine whether it is ready; for container health checks
    #[command(after_help = "\
Ends with 0 for a 2xx answer and with 1 for anything else, or none within 3 s (--timeout).

Examples:
  HEALTHCHECK CMD [\"tealgate\", \"healthcheck\"]
  tealgate healthcheck --url http://127.0.0.1:7181/livez")]
    Healthcheck(packaging::Healthcheck),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  tealgate completion bash > /etc/bash_completion.d/tealgate
  tealgate completion zsh > ~/.zfunc/_tealgate")]
    Completion(packaging::Completion),
    /// Print the manual page, or write one for each verb
    #[command(after_help = "\
Examples:
  tealgate man | man -l -
  tealgate man --dir /usr/local/share/man/man1")]
    Man(packaging::Man),
    /// Print the version
    Version,
}

/// The verbs that talk to a running server.
#[derive(Debug, Subcommand)]
pub(super) enum Remote {
    /// Show the state of an app, or of all
    #[command(after_help = "\
One app is shown in full: its roles, endpoints, gates, pin and source; several are shown in a row each. With -o json, a \
named app is an object, and without a name there is an array.

Examples:
  tealgate status
  tealgate status shop -w
  tealgate status shop -o json | jq -r .active.revision")]
    Status(look::Status),
    /// Make a revision the candidate: testers see it, live traffic does not
    #[command(after_help = "\
A candidate is probed at once and becomes ready when enough of its endpoints are healthy. To deploy a revision again \
replaces its endpoints and labels.

Examples:
  tealgate deploy shop --revision green --endpoint 127.0.0.1:9011 --endpoint 127.0.0.1:9012
  tealgate deploy --revision 6d4f9c --endpoint 10.0.0.5:80,2 --endpoint 10.0.0.6:80 --label commit=6d4f9c")]
    Deploy(act::Deploy),
    /// Move all live traffic to the candidate, if its gates hold
    #[command(after_help = "\
When it returns, no request that arrives later starts on the old revision; what is in flight there finishes there. On a \
terminal it asks first. Ends with 3 if a gate or a pool that is not ready says no, with 5 if somebody else was faster. Where \
Argo Rollouts decides, it is asked, and this returns when traffic has moved, or with 4 and the place where it hangs.

Examples:
  tealgate promote shop
  tealgate promote shop --revision green --if-generation 12 --wait drained --timeout 2m
  tealgate promote shop --when-ready --image registry.example.com/shop:1.2 --timeout 5m
  tealgate promote shop --hold --max-age 5s
  tealgate promote shop --skip-gates --reason \"hotfix for #42\" --yes")]
    Promote(act::Promote),
    /// Move all live traffic back to the previous revision, at once
    #[command(
        visible_alias = "undo",
        after_help = "\
Works in every phase, and needs nobody but the proxy. With --to, any known revision with ready endpoints will do. Other replicas \
that follow the same Rollout are told; where two plain Services are followed they are not: ask each.

Examples:
  tealgate rollback shop --reason \"errors at checkout\"
  tealgate rollback shop --to blue --yes"
    )]
    Rollback(act::Rollback),
    /// Drop the candidate; live traffic stays where it is
    #[command(after_help = "\
With --revision or --image, only that one: where there is no candidate any more, there is nothing to do (0); if another one is, \
or it is active already, that is a conflict (5).

Examples:
  tealgate abort shop --reason \"smoke test failed\"")]
    Abort(act::GiveUp),
    /// Give the candidate up for good; live traffic stays where it is
    #[command(after_help = "\
Where Argo Rollouts decides, the rollout is aborted and the stable revision's template is put back, so that the Rollout is \
healthy again; Git has to follow, or it brings the candidate back. Elsewhere this is `abort`. With --revision or --image, only \
that one: where there is no candidate any more, there is nothing to do (0); if another one is, or it is active already, that is a \
conflict (5).

Examples:
  tealgate reject shop --reason \"smoke test failed\" --yes
  tealgate reject shop --image registry.example.com/shop:1.2 --reason denied --yes")]
    Reject(act::GiveUp),
    /// Take a rollout up again that was aborted (Argo Rollouts)
    #[command(after_help = "\
The candidate is scaled up, analysed and paused anew; then promote it. As long as its pods are still up after the abort \
(spec.strategy.blueGreen.abortScaleDownDelaySeconds, 30 by default), Argo Rollouts would promote it at once instead, so that is \
refused (3); --skip-gates has it all the same.

Examples:
  tealgate retry shop && tealgate wait shop --for preview-ready && tealgate promote shop --yes
  tealgate retry shop --skip-gates --reason \"it was fine after all\"")]
    Retry(act::Retry),
    /// Let the rollout stand where it is (Argo Rollouts)
    #[command(after_help = "\
No Service is switched until `unpause` or `promote`. To keep live traffic where it is whatever anybody else does, `pin` it; to \
let new requests wait, `hold` them.

Examples:
  tealgate pause shop --reason \"not before the sale is over\"")]
    Pause(act::Plain),
    /// Let a paused rollout go on (Argo Rollouts)
    #[command(after_help = "\
Ends what `pause` began; what waits for approval waits on, for `promote`. The end of a hold is `resume`.

Examples:
  tealgate unpause shop")]
    Unpause(act::Plain),
    /// Keep the previous revision longer, so that a rollback stays possible (Argo Rollouts)
    #[command(after_help = "\
Puts the deadline off at which the old ReplicaSet is scaled down.

Examples:
  tealgate keep shop --for 2h --reason \"watch it over lunch\"")]
    Keep(act::Keep),
    /// Send a share of live traffic to the candidate
    #[command(after_help = "\
It counts from when the candidate is ready, and each user stays on one side. Raising it takes nobody back; 0% takes all \
back, and so do abort and rollback. It ends with the candidate.

Examples:
  tealgate weight shop 5% --reason \"release 42\"
  tealgate weight shop 0%")]
    Weight(act::SetWeight),
    /// Show the candidate to testers
    #[command(subcommand)]
    Preview(preview::Preview),
    /// Show what a promotion would do now
    #[command(after_help = "\
Ends with 0 if it would be carried out, else with the code it would end with: 3 for gates, 5 for a pin.

Examples:
  tealgate plan shop && tealgate promote shop --yes")]
    Plan(look::PlanOf),
    /// Keep the active revision active, whatever the source says
    #[command(after_help = "\
While a pin holds, promotions and rollbacks are refused with exit code 5. Of an app that is followed in Kubernetes the pin is of \
this replica alone: ask each.

Examples:
  tealgate pin shop --revision blue --reason \"sale until six\" --expires 8h")]
    Pin(act::Pin),
    /// Take the pin off
    #[command(after_help = "\
Examples:
  tealgate unpin shop")]
    Unpin(act::Plain),
    /// Let new live requests wait at the door, so that the old revision can finish what it has
    #[command(after_help = "\
For changes where old and new must not overlap. A promotion or rollback moves those who wait; `resume` lets them in, in the \
order of arrival. So does the hold's end by itself after --max-age, and the end of the process. `promote --hold` does all of \
it as one action. Of an app that is followed in Kubernetes the hold is of this replica alone: hold, and resume, at each.

Examples:
  tealgate hold shop --max-age 5s --max-requests 1000 --max-bytes 64MiB
  tealgate promote shop --yes && tealgate resume shop")]
    Hold(door::Hold),
    /// End the hold: who waits is let in
    #[command(after_help = "\
Examples:
  tealgate resume shop")]
    Resume(act::Plain),
    /// Answer live requests with the maintenance page, or serve them again
    #[command(after_help = "\
Live requests get 503 with Retry-After; what is in flight finishes, and previews are served. It stays on, also over a \
restart, until it is turned off. Of an app that is followed in Kubernetes it is of this replica alone: ask each.

Examples:
  tealgate maintenance shop on --retry-after 10m --reason \"database upgrade\"
  tealgate maintenance shop off")]
    Maintenance(door::Maintenance),
    /// Wait until an app is where it should be
    #[command(after_help = "\
Ends with 0 when it is, with 4 when the time (--timeout, default 10m) is over, and as soon as it can no longer be: with 1 \
when the candidate is dropped, with 3 when it has failed its smoke test, with 5 when another has taken its place, and with 6 \
when the revision was active and no longer is. A revision that is active already has been ready.

Examples:
  tealgate wait shop --for preview-ready --revision green --timeout 2m
  tealgate wait shop --for preview-ready --image registry.example.com/shop:1.2
  tealgate wait shop --for drained")]
    Wait(wait::Wait),
    /// Send the checks of the candidate's smoke test again, and show what each comes to
    #[command(after_help = "\
Wants a `promotion.smoke` in the app's configuration. With --revision or --image, that candidate is waited for until it can \
be tested; one that is active already needs no test. What fails is tried again for as long as `promotion.smoke_within` says; \
a test that goes on will do. Ends with 0 when all checks have passed, with 3 when one has failed, with 4 when the time \
(--timeout, default 10m) is over, and with 5 when another candidate has come.

Examples:
  tealgate smoke shop
  tealgate smoke shop --image registry.example.com/shop:1.2 --timeout 5m
  tealgate smoke shop -o json | jq -r '.checks[] | select(.state == \"failed\") | .message'")]
    Smoke(smoke::Smoke),
    /// Show how the candidate answers copies of live requests, compared with what clients were given
    #[command(after_help = "\
Wants a `mirror` in the app's configuration. Shown are the counts since the server's start and the last 50 differences; of \
bodies only the place that differs, of headers nothing that is secret.

Examples:
  tealgate mirror shop
  tealgate mirror shop -o json | jq -r '.differences[].path' | sort | uniq -c")]
    Mirror(look::Mirror),
    /// Show what was done to an app, by whom and why, the newest first
    #[command(after_help = "\
Examples:
  tealgate history shop --limit 5
  tealgate history shop -o json | jq '.[0]'")]
    History(look::History),
    /// Follow what happens
    #[command(after_help = "\
The first message is the whole state; each later one is an event. With -o json each is one line.

Examples:
  tealgate events --app shop
  tealgate events -o json | jq -c 'select(.type == \"acted\") | .receipt'")]
    Events(look::Events),
    /// Forget a revision that carries no live traffic
    #[command(after_help = "\
Examples:
  tealgate discard shop --revision green")]
    Discard(act::Discard),
    /// Have the server read its configuration file again
    #[command(after_help = "\
A file with a mistake changes nothing. Wants the role admin.

Examples:
  tealgate reload")]
    Reload,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_of_the_contract_parses() {
        let lines = [
            "serve -c a.yaml",
            "demo --live 127.0.0.1:0 --flip-every 3s --for 10s",
            "check",
            "schema",
            "status -w",
            "status shop -o yaml",
            "deploy shop --revision g --endpoint 127.0.0.1:1 --endpoint 127.0.0.1:2,5 --label a=b",
            "promote shop --revision g --if-generation 3 --dry-run --wait drained",
            "promote shop --skip-gates --reason hotfix -y",
            "promote shop --hold --max-age 5s",
            "promote shop --when-ready --image shop:1 --timeout 5m",
            "smoke shop --revision g --reason again",
            "smoke --image shop:1",
            "wait shop --for preview-ready --image shop:1",
            "hold shop --max-age 5s --max-requests 1000 --max-bytes 64MiB",
            "resume shop",
            "maintenance shop on --retry-after 2m --reason upgrade",
            "maintenance off",
            "mirror shop -o json",
            "rollback shop --to blue",
            "undo",
            "abort",
            "reject shop --reason broken --yes",
            "reject shop --image shop:1 --yes",
            "abort shop --revision g",
            "retry shop",
            "retry shop --skip-gates --reason now",
            "pause shop --dry-run",
            "unpause shop",
            "keep shop --for 2h",
            "weight shop 5%",
            "weight 0 --reason over",
            "preview link shop --ttl 8h --host shop.example.com",
            "plan shop",
            "pin shop --revision g --reason r --expires 2h",
            "unpin shop",
            "wait shop --for preview-ready --revision g --timeout 2m",
            "history shop --limit 3",
            "events --app shop",
            "token new --name ann --role operator --app shop --expires 90d",
            "discard shop --revision g",
            "--server unix:/run/a.sock reload",
            "healthcheck --url http://127.0.0.1:7181/livez",
            "completion bash",
            "man",
            "version",
        ];
        for line in lines {
            if let Err(error) = parse(&format!("tealgate {line}")) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn what_must_be_justified_is_refused_without_a_reason() {
        assert!(parse("tealgate promote shop --skip-gates").is_err());
        assert!(parse("tealgate pin shop --revision g").is_err());
    }

    #[test]
    fn names_are_checked_before_anything_is_sent() {
        for line in
            ["tealgate status ../x", "tealgate promote --revision a/b", "tealgate deploy --revision g --endpoint x"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_verb_says_in_its_help_how_it_is_used() {
        for verb in Cli::command().get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
            let bare = ["version", "token", "preview", "help"].contains(&verb.get_name());
            assert!(bare || verb.get_after_help().is_some(), "{} has no example", verb.get_name());
        }
    }
}
