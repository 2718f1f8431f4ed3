//! The files in `deploy/pipelines`: their form, and every command of Tealgate in them, run against a real server in the
//! order of the pipeline, for each of its outcomes. What is others' to do (building, applying, asking, a suite of tests) is
//! played by the test. Conditions are read as the platforms read them, as far as the files use them: a file that says
//! anything else fails here.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use http::Request;
use serde_json::{Value, json};

use crate::support::{
    Body,
    backend::Backend,
    client::{Client, Protocol},
    full,
    proxy::Proxy,
    setup::{APP, Setup},
    shell::{Done, Shell},
};

/// The image that the pipelines roll out, and the host that shows it.
const IMAGE: &str = "registry.test/shop:6d4f9c";
const PREVIEW_HOST: &str = "preview.shop.test";

/// One step, whatever the platform.
#[derive(Debug)]
struct Step {
    /// By what others know it; those that nobody asks for have none.
    id: String,
    does: Does,
    /// Whether the pipeline goes on, and may end well, when it fails.
    may_fail: bool,
    when: When,
}

#[derive(Debug)]
enum Does {
    /// Runs Tealgate.
    Tealgate(Command),
    /// What the test plays.
    Else(String),
}

#[derive(Debug)]
enum Command {
    /// Its arguments.
    Words(Vec<String>),
    /// A line for a shell.
    Line(String),
}

/// When a step is run.
#[derive(Debug)]
enum When {
    /// While nothing has failed.
    AllIsWell,
    /// When a step has come to one of these.
    CameTo(String, Vec<String>),
    /// When all of these hold: a word about the run, or a step's outcome that is, or is not, this.
    Github(Vec<String>),
}

/// What the others do.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    approved: bool,
    suite: bool,
    /// Whether the candidate passes its smoke test.
    smoke: bool,
}

/// What came of a pipeline.
#[derive(Debug)]
struct Outcome {
    green: bool,
    /// What was run of Tealgate, and what it ended with.
    ran: Vec<(String, i32)>,
    live: String,
    candidate: Option<String>,
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/pipelines").join(name)
}

fn read(name: &str) -> Value {
    let text = fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

/// The variables that Codefresh puts in the place of their names before anything is run.
fn filled(text: &str) -> String {
    let values = [
        ("APP", APP),
        ("IMAGE_NAME", "registry.test/shop"),
        ("CF_SHORT_REVISION", "6d4f9c"),
        ("CF_BUILD_ID", "77"),
        ("CF_REPO_OWNER", "acme"),
        ("CF_REPO_NAME", "shop"),
        ("CF_REVISION", "6d4f9c6d4f9c"),
        ("clone", "/codefresh/volume/shop"),
        ("PREVIEW_HOST", PREVIEW_HOST),
        ("PREVIEW_PORT", "8081"),
        ("PREVIEW_URL", "http://preview.shop.test"),
        ("TEALGATE_IMAGE", "tealgate"),
        ("KUBECTL_IMAGE", "kubectl"),
        ("SUITE_IMAGE", "maven"),
        ("KUBE_CONTEXT", "production"),
        ("NAMESPACE", "shop"),
        ("ROLLOUT", "shop"),
    ];
    let filled =
        values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${{{{{name}}}}}"), value));
    assert!(!filled.contains("${{"), "a variable that README.md does not name: {filled}");
    filled
}

fn codefresh(name: &str) -> Vec<Step> {
    let file = read(name);
    assert_eq!(file["version"], "1.0", "{name}");
    let stages: Vec<_> = file["stages"].as_array().expect("stages").iter().map(text).collect();
    let mut steps: Vec<Step> = Vec::new();
    for (id, step) in file["steps"].as_object().expect("steps") {
        let known = [
            "title",
            "stage",
            "type",
            "repo",
            "revision",
            "working_directory",
            "image_name",
            "tag",
            "dockerfile",
            "image",
            "commands",
            "cmd",
            "fail_fast",
            "timeout",
            "when",
        ];
        for key in step.as_object().expect("a mapping").keys() {
            assert!(known.contains(&key.as_str()), "{name}: {id} has a key {key}");
        }
        assert!(stages.contains(&text(&step["stage"])) && step["title"].is_string(), "{name}: {id}");
        filled(&text(&step["title"]));
        let does = match (step["type"].as_str(), step["image"].as_str().map(filled).as_deref()) {
            (None, Some("tealgate")) => {
                // The image has no shell: its arguments are all there is.
                assert!(step["commands"].is_null(), "{name}: {id}");
                let words = step["cmd"].as_array().expect("arguments").iter().map(|word| filled(&text(word)));
                Does::Tealgate(Command::Words(words.collect()))
            }
            (None, Some(_)) => {
                let commands: Vec<_> = step["commands"].as_array().expect("commands").iter().map(text).collect();
                Does::Else(filled(&commands.join("\n")))
            }
            (Some(kind @ ("git-clone" | "build" | "pending-approval")), None) => Does::Else(kind.to_owned()),
            other => panic!("{name}: {id} is {other:?}"),
        };
        let when = match &step["when"] {
            Value::Null => When::AllIsWell,
            when => {
                let [condition] = when["steps"].as_array().expect("steps").as_slice() else { panic!("{name}: {id}") };
                let of = text(&condition["name"]);
                assert!(
                    steps.iter().any(|step| step.id == of),
                    "{name}: {id} waits for {of}, which does not come before"
                );
                When::CameTo(of, condition["on"].as_array().expect("a list").iter().map(text).collect())
            }
        };
        steps.push(Step { id: id.clone(), does, may_fail: step["fail_fast"] == false, when });
    }
    steps
}

fn github(name: &str) -> Vec<Step> {
    let file = read(name);
    assert!(file["on"].is_object() && file["name"].is_string() && file["permissions"].is_object(), "{name}");
    for secret in ["TEALGATE_SERVER", "TEALGATE_TOKEN"] {
        assert_eq!(file["env"][secret], format!("${{{{ secrets.{secret} }}}}"), "{name}");
    }
    let jobs = file["jobs"].as_object().expect("jobs");
    assert_eq!(jobs.len(), 1, "{name}");
    let job = &jobs["rollout"];
    assert!(job["runs-on"].is_string(), "{name}");
    let mut steps: Vec<Step> = Vec::new();
    for step in job["steps"].as_array().expect("steps") {
        let known = ["name", "id", "if", "env", "run", "uses", "with", "continue-on-error", "timeout-minutes"];
        for key in step.as_object().expect("a mapping").keys() {
            assert!(known.contains(&key.as_str()), "{name}: a key {key} in {step}");
        }
        let id = step["id"].as_str().unwrap_or_default().to_owned();
        let does = match (step["run"].as_str(), step["uses"].as_str()) {
            (Some(run), None) if run.starts_with("tealgate ") => {
                assert!(!run.trim_end().contains('\n'), "{name}: more than one line in {id}");
                Does::Tealgate(Command::Line(run.to_owned()))
            }
            (Some(run), None) => Does::Else(run.to_owned()),
            (None, Some(action)) => {
                assert!(action.contains('@'), "{name}: {action} of no version");
                Does::Else(action.to_owned())
            }
            other => panic!("{name}: {id} does {other:?}"),
        };
        let when = match step["if"].as_str() {
            None => When::AllIsWell,
            Some(condition) => {
                let condition = condition.trim_start_matches("${{").trim_end_matches("}}");
                let parts: Vec<_> = condition.split("&&").map(|part| part.trim().to_owned()).collect();
                for part in parts.iter().filter_map(|part| part.strip_prefix("steps.")) {
                    let of = part.split('.').next().expect("a step");
                    assert!(
                        steps.iter().any(|step| step.id == of),
                        "{name}: {id} asks for {of}, which does not come before"
                    );
                }
                When::Github(parts)
            }
        };
        steps.push(Step { id, does, may_fail: step["continue-on-error"] == true, when });
    }
    steps
}

impl When {
    fn holds(&self, outcomes: &BTreeMap<String, &'static str>, failed: bool) -> bool {
        match self {
            Self::AllIsWell => !failed,
            Self::CameTo(step, wanted) => {
                !failed && outcomes.get(step).is_some_and(|outcome| wanted.iter().any(|wanted| wanted == outcome))
            }
            Self::Github(parts) => {
                // Unless it says a word about the run, a condition holds only while nothing has failed.
                let speaks = parts.iter().any(|part| ["!cancelled()", "failure()"].contains(&part.as_str()));
                (speaks || !failed) && parts.iter().all(|part| github_holds(part, outcomes, failed))
            }
        }
    }
}

fn github_holds(part: &str, outcomes: &BTreeMap<String, &'static str>, failed: bool) -> bool {
    match part {
        "!cancelled()" => true,
        "failure()" => failed,
        _ => {
            let (of, is) =
                part.strip_prefix("steps.").and_then(|part| part.split_once(".outcome ")).expect("an outcome");
            let outcome = outcomes.get(of).copied().unwrap_or("skipped");
            match is.split_once(' ') {
                Some(("==", wanted)) => wanted == format!("'{outcome}'"),
                Some(("!=", wanted)) => wanted != format!("'{outcome}'"),
                _ => panic!("a condition that nobody here understands: {part}"),
            }
        }
    }
}

/// A server with blue live, and what a pipeline is given of it.
struct Stage {
    proxy: Proxy,
    blue: Backend,
    green: Backend,
    shell: Shell,
}

impl Stage {
    async fn set(smoke: bool) -> Self {
        let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
        let mut setup = Setup::before(&[blue.address()]);
        setup.app()["preview"] = json!({ "hosts": [PREVIEW_HOST] });
        let status = if smoke { 200 } else { 418 };
        setup.app()["promotion"] = json!({
            "smoke": [{ "name": "front", "path": "/", "status": status, "body_contains": "green" }],
            "smoke_within": "0s",
        });
        let operator = Shell::default().mint("--name ci --role operator").await;
        let address = setup.open_to(&[&operator]);
        let shell = Shell::at(format_args!("http://{address}")).with_token(&operator.token);
        let shell = shell.with("APP", APP).with("IMAGE", IMAGE).with("GITHUB_RUN_ID", "77");
        Self { proxy: Proxy::start(setup).await, blue, green, shell }
    }

    /// Plays a pipeline through.
    async fn play(&self, steps: &[Step], scenario: Scenario) -> Outcome {
        let (mut outcomes, mut failed, mut ran) = (BTreeMap::new(), false, Vec::new());
        for step in steps {
            if !step.when.holds(&outcomes, failed) {
                outcomes.insert(step.id.clone(), "skipped");
                continue;
            }
            let outcome = match &step.does {
                Does::Tealgate(command) => {
                    let done = self.run(command).await;
                    let verb = done.line().split_whitespace().find(|word| *word != "tealgate").expect("a verb");
                    ran.push((verb.to_owned(), done.code));
                    if done.code == 0 { "success" } else { "failure" }
                }
                Does::Else(what) => self.others(what, step, scenario).await,
            };
            failed |= !step.may_fail && outcome == "failure";
            outcomes.insert(step.id.clone(), outcome);
        }
        let status = self.proxy.status().await;
        let candidate = status["preview"]["revision"].as_str().map(str::to_owned);
        Outcome { green: !failed, ran, live: self.seen("shop.test").await.0, candidate }
    }

    async fn run(&self, command: &Command) -> Done {
        match command {
            Command::Words(words) => self.shell.run_words(words.iter().map(String::as_str)).await,
            Command::Line(line) => self.shell.script(line).await,
        }
    }

    /// Does what is not Tealgate's.
    async fn others(&self, what: &str, step: &Step, scenario: Scenario) -> &'static str {
        let came = |well| if well { "success" } else { "failure" };
        if what.contains("kubectl") && what.contains("patch rollout") {
            // The candidate comes up, made of the image: what Argo Rollouts would see to.
            let deploy =
                json!({ "endpoints": [self.green.address()], "labels": { "image": format!("{IMAGE},sidecar:1") } });
            let path = format!("/apps/{APP}/revisions/green");
            let (status, answer) = self.proxy.admin.call("PUT", &path, Some(deploy)).await;
            assert!(status.is_success(), "{answer:#}");
            return "success";
        }
        if what.contains("mvn") {
            assert!(what.contains("-Dserver.host=") && what.contains("-Dserver.port="), "{what}");
            // Whatever it asks for, it is told by the candidate.
            assert_eq!(self.seen(PREVIEW_HOST).await, ("green".to_owned(), "green".to_owned()));
            return came(scenario.suite);
        }
        match what {
            "pending-approval" => {
                if scenario.approved {
                    "approved"
                } else {
                    "denied"
                }
            }
            _ if what.contains("manual-approval") => came(scenario.approved),
            "exit 1" => "failure",
            _ if step.may_fail => panic!("{step:?} may fail, and nobody here knows how"),
            _ => "success",
        }
    }

    /// Which colour answers at this host, and which revision it says it is.
    async fn seen(&self, host: &str) -> (String, String) {
        let mut client = Client::connect(Protocol::H1, self.proxy.live).await.expect("it accepts");
        let request: Request<Body> =
            Request::builder().uri("/").header("host", host).body(full("")).expect("a request");
        let answer = client.fetch(request).await.expect("an answer");
        (answer.colour().to_owned(), answer.header("x-tealgate-revision").to_owned())
    }

    async fn end(self) {
        drop((self.blue, self.green));
        self.proxy.shutdown(Duration::from_secs(5)).await;
    }
}

const ALL_WELL: Scenario = Scenario { approved: true, suite: true, smoke: true };

async fn played(steps: &[Step], scenario: Scenario) -> Outcome {
    let stage = Stage::set(scenario.smoke).await;
    let outcome = stage.play(steps, scenario).await;
    stage.end().await;
    outcome
}

fn ran(outcome: &Outcome) -> Vec<(&str, i32)> {
    outcome.ran.iter().map(|(verb, code)| (verb.as_str(), *code)).collect()
}

#[track_caller]
fn ends(outcome: &Outcome, green: bool, live: &str, expected: &[(&str, i32)]) {
    assert_eq!((outcome.green, outcome.live.as_str(), ran(outcome)), (green, live, expected.to_vec()), "{outcome:#?}");
    assert_eq!(outcome.candidate, None, "{outcome:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_says_yes_and_live_traffic_moves_or_no_and_nothing_has_happened_and_neither_is_a_failure() {
    for steps in [codefresh("codefresh-manual-approval.yml"), github("github-manual-approval.yml")] {
        let approved = played(&steps, ALL_WELL).await;
        ends(&approved, true, "green", &[("wait", 0), ("promote", 0)]);
        let denied = played(&steps, Scenario { approved: false, ..ALL_WELL }).await;
        ends(&denied, true, "blue", &[("wait", 0), ("reject", 0)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_asked_about_a_candidate_that_fails_its_smoke_test() {
    let broken = Scenario { smoke: false, ..ALL_WELL };
    let outcome = played(&codefresh("codefresh-manual-approval.yml"), broken).await;
    assert_eq!(
        (outcome.green, outcome.live.as_str(), ran(&outcome)),
        (false, "blue", vec![("wait", 3)]),
        "{outcome:#?}"
    );
    ends(&played(&github("github-manual-approval.yml"), broken).await, false, "blue", &[("wait", 3), ("reject", 0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tests_that_pass_promote_and_tests_that_fail_reject_and_are_seen() {
    for steps in [codefresh("codefresh-smoke-tests.yml"), github("github-smoke-tests.yml")] {
        let passed = played(&steps, ALL_WELL).await;
        ends(&passed, true, "green", &[("smoke", 0), ("promote", 0)]);
        let smoke = played(&steps, Scenario { smoke: false, ..ALL_WELL }).await;
        ends(&smoke, false, "blue", &[("smoke", 3), ("reject", 0)]);
        let suite = played(&steps, Scenario { suite: false, ..ALL_WELL }).await;
        ends(&suite, false, "blue", &[("smoke", 0), ("reject", 0)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_that_is_run_again_finds_its_work_done() {
    for steps in [codefresh("codefresh-manual-approval.yml"), github("github-smoke-tests.yml")] {
        let stage = Stage::set(true).await;
        let first = stage.play(&steps, ALL_WELL).await;
        assert!(first.green && first.live == "green", "{first:#?}");
        // The image is there already, so nothing new comes of applying it.
        for step in &steps {
            let Does::Tealgate(command) = &step.does else { continue };
            let done = stage.run(command).await;
            let rejects = done.line().contains("reject");
            done.ends_with(if rejects { 5 } else { 0 }).says(if rejects {
                "active in shop already"
            } else {
                "is active already"
            });
        }
        assert_eq!(stage.seen("shop.test").await.0, "green");
        stage.end().await;
    }
}

#[test]
fn every_variable_and_secret_of_the_files_is_explained() {
    let readme = fs::read_to_string(path("README.md")).expect("a README");
    for file in fs::read_dir(path("")).expect("a directory") {
        let file = file.expect("an entry").path();
        let text = fs::read_to_string(&file).expect("a text");
        if file.extension().is_none_or(|kind| kind != "yml") {
            continue;
        }
        assert!(readme.contains(&*file.file_name().expect("a name").to_string_lossy()), "{}", file.display());
        for reference in text.split("${{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim())) {
            let name =
                reference.strip_prefix("vars.").or_else(|| reference.strip_prefix("secrets.")).unwrap_or(reference);
            let given = name.starts_with("CF_")
                || name == "clone"
                || reference.contains(['(', ' '])
                || reference.starts_with("github.");
            assert!(given || readme.contains(&format!("`{name}`")), "{name} of {} is not explained", file.display());
        }
    }
}
