//! The example `doctor`: what it reports of a device, and that it notices what is wrong.

#[path = "common/cases.rs"]
mod cases;
#[allow(dead_code)]
#[path = "../examples/doctor/kernels.rs"]
mod kernels;
#[allow(dead_code)]
#[path = "../examples/doctor/parts.rs"]
mod parts;
#[path = "common/program.rs"]
mod program;
#[allow(dead_code)]
#[path = "../examples/doctor/report.rs"]
mod report;

use std::{
    path::Path,
    process::{Command, Output},
    sync::mpsc::channel,
    time::Duration,
};

use anyhow::bail;
use gemmaflow::{
    internals::{plan::Plan, reference::expected, runtime::PipelineCache},
    ir::{Compute, Op, ops::Linear},
    runtime::{Device, GpuOptions, Opened},
};
use indicatif::ProgressBar;
use kernels::{Fault, Trial, examine, wrong};
use parts::{Record, Share, run};
use program::program;
use report::{Report, Tier, without_folders};
use serde_json::Value;

fn doctor(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program("doctor"));
    command.args(arguments).arg("--out").arg(folder).envs(environment.iter().copied());
    command.output().expect("an example, built by `cargo test` or `cargo build --examples`")
}

fn read(folder: &Path) -> (Value, String) {
    let text = std::fs::read_to_string(folder.join("report.json")).expect("written");
    let svg = std::fs::read_to_string(folder.join("report.svg")).expect("written");
    (serde_json::from_str(&text).expect("JSON"), svg)
}

#[test]
fn a_short_examination_reports_every_part_and_nothing_of_the_user() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = doctor(folder.path(), &["--quick", "--seconds", "16"], &[]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (report, svg) = read(folder.path());
    assert_eq!(output.status.code(), Some(0), "{text}{report}");
    assert_eq!((&report["report"], &report["running"], &report["wrong"]), (&1.into(), &Value::Null, &0.into()));
    assert_eq!(report["gemmaflow"], env!("CARGO_PKG_VERSION"));
    let names: Vec<_> = report["parts"].as_array().expect("a list").iter().map(|part| &part["name"]).collect();
    assert_eq!(names, ["adapter", "first start", "kernels", "small models", "rates", "speed"]);
    let adapter = report["adapter"]["name"].as_str().expect("a name");
    for key in ["tier", "tier_why", "matrices_why", "driver"] {
        assert!(report["adapter"][key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {report}");
    }
    let tier = &report["kernels"][0];
    let number = |key: &str| tier[key].as_u64().expect("a number");
    assert!(number("right") > 0 && number("cases") > 200, "{tier}");
    assert_eq!(number("right") + number("same") + number("not_reached"), number("cases"), "{tier}");
    assert!(report["rates"]["read_gb_s"].as_f64().is_some_and(|rate| rate > 0.0), "{report}");
    for speed in report["speed"].as_array().expect("a list") {
        assert!(speed["problem"].is_string() != speed["decode"].is_object(), "{speed}");
    }
    for part in ["ADAPTER", "KERNELS AGAINST THE REFERENCE", "RATES", "SPEED", "VERDICT", adapter] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("prefers-color-scheme: dark"), "{svg}");
    assert!(svg.contains(adapter) && svg.contains("All kernels that were examined are right"), "{svg}");
    let user = ["USER", "LOGNAME", "HOSTNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    let own = user.filter(|name| name.len() > 4).chain([env!("CARGO_MANIFEST_DIR").into(), folder.path().display().to_string()]);
    for name in own {
        assert!(!report.to_string().contains(&name) && !svg.contains(&name), "{name} in {report}");
    }
}

#[test]
fn without_an_adapter_the_report_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nowhere = [("VK_DRIVER_FILES", "/nonexistent"), ("VK_ICD_FILENAMES", "/nonexistent")];
    let output = doctor(folder.path(), &["--quick"], if cfg!(target_os = "linux") { &nowhere } else { &[] });
    if cfg!(target_os = "linux") {
        let (report, svg) = read(folder.path());
        assert_eq!(output.status.code(), Some(2), "{report}");
        assert!(report["parts"][0]["problem"].as_str().is_some_and(|problem| problem.contains("driver")), "{report}");
        assert!(svg.contains("No kernel was examined"), "{svg}");
    }
    let output = doctor(&folder.path().join("no such folder"), &[], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("--out"), "{said}");
}

fn pipelines() -> PipelineCache {
    match Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => PipelineCache::new(&context),
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

fn planned(pipelines: &PipelineCache, epilogue: &str) -> (Trial, Plan) {
    let case = Op::from(Linear).cases().into_iter().find(|case| case.inputs[0].shape[1] == 3).expect("a case with three rows");
    let mut plan = cases::plan(&case, &pipelines.context().capabilities().target()).expect("a plan");
    if !epilogue.is_empty() {
        plan.dispatches[0].kernel.hole = epilogue.into();
    }
    (Trial { case, compute: Compute::F32 }, plan)
}

/// The exit code of a report with this fault, or without any.
fn code(fault: Option<report::Wrong>) -> u8 {
    let tier = Tier { name: "portable", right: 1, wrong: fault.into_iter().collect(), ..Tier::default() };
    let mut report = Report { kernels: vec![tier], ..Report::new(true, 1.0) };
    report.count();
    report.exit_code()
}

#[test]
fn a_wrong_kernel_is_named_and_the_exit_code_is_1() {
    let pipelines = pipelines();
    let found = |epilogue: &str| {
        let (trial, plan) = planned(&pipelines, epilogue);
        let fault = examine(&pipelines, &plan, &trial, &expected(&trial.case).expect("the reference")).err();
        fault.map(|fault| (wrong("portable", Some(&plan), &trial, &fault), fault))
    };
    assert!(found("").is_none());
    assert_eq!(code(None), 0);
    // The smaller error comes first, the larger one is reported.
    let body = "return v + select(0.0, 1e-2, i == 70u) + select(0.0, 0.5, i == 71u);";
    let (line, fault) = found(&format!("fn epilogue(i: u32, v: f32) -> f32 {{ {body} }}\n")).expect("a wrong result");
    assert!(matches!(fault, Fault::Off(_)));
    assert_eq!((&*line.op, line.tier, line.numbers), ("linear", "portable", "f32"));
    assert!(line.kernels[0].starts_with("linear_") && line.kernels[0].contains("WEIGHT="), "{:?}", line.kernels);
    assert!(line.problem.contains("element 71") && line.problem.contains("(2 of "), "{}", line.problem);
    assert!(line.error.is_some_and(|error| (error - 0.5).abs() < 0.01) && line.share.is_some_and(|share| share > 100.0));
    assert_eq!(code(Some(line)), 1);
    let (line, fault) = found("fn epilogue(i: u32, v: f32) -> f32 { return v + nothing; }\n").expect("no pipeline");
    assert!(matches!(fault, Fault::DoesNotCompile(_)) && line.problem.contains("nothing"), "{}", line.problem);
    assert_eq!(code(Some(line)), 1);
    // A result that is never written comes back as NaN.
    let (trial, mut plan) = planned(&pipelines, "");
    plan.dispatches[0].workgroups[0] -= 1;
    let fault = examine(&pipelines, &plan, &trial, &expected(&trial.case).expect("the reference"));
    assert!(matches!(fault, Err(Fault::Off(deviation)) if deviation.share.is_infinite() && deviation.found.is_nan()));
}

#[test]
fn parts_that_fail_panic_or_hang_are_lines_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let record = Record::new(Report::new(true, 1.0), folder.path(), ProgressBar::hidden()).expect("a file");
    let share = Share { of_rest: 0.5, grace: Duration::from_millis(50) };
    let rest = Duration::from_millis(200);
    run(&record, rest, share, "failing", |_| bail!("no memory"));
    run(&record, rest, share, "panicking", |_| std::panic::resume_unwind(Box::new("a driver's nonsense")));
    run(&record, rest, share, "slow", |scope| {
        while !scope.over() {
            std::thread::yield_now();
        }
        bail!("cancelled")
    });
    let (go_on, wait) = channel::<()>();
    let (ended, end) = channel();
    run(&record, rest, share, "hanging", move |scope| {
        scope.at("a kernel");
        wait.recv().ok();
        scope.update(|report| report.wrong = 7);
        ended.send(()).ok();
        Ok(())
    });
    run(&record, rest, share, "good", |_| Ok(()));
    drop(go_on);
    end.recv().expect("the hanging part's end");
    let text = std::fs::read_to_string(folder.path().join("report.json")).expect("written");
    let written: Value = serde_json::from_str(&text).expect("JSON");
    let problems: Vec<_> = written["parts"].as_array().expect("a list").iter().map(|part| part["problem"].as_str()).collect();
    assert_eq!(problems[..2], [Some("no memory"), Some("panicked: a driver's nonsense")]);
    assert!(problems[2].is_some_and(|problem| problem.starts_with("not reached in time")), "{problems:?}");
    assert!(
        problems[3].is_some_and(|problem| problem.contains("given up") && problem.contains("hanging: a kernel")),
        "{problems:?}"
    );
    assert_eq!((problems[4], &written["wrong"]), (None, &0.into()));
}

#[test]
fn folders_are_left_out_of_messages() {
    let here = std::env::current_dir().expect("a folder");
    let said = without_folders(&format!("cannot read {}/secret", here.display()));
    assert_eq!(said, "cannot read ~/secret");
}
