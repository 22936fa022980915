//! Options, which come as plain objects.

use std::sync::Arc;

use gemmaflow::{
    GeneratorOptions, SampleOpts,
    conversation::{AnswerOptions, Towers},
    files::ModelPath,
    generate::CancelToken,
    runtime::{Device, GpuContext, GpuOptions, KernelTier, OnProgress, Opened, UploadPhase},
};
use send_wrapper::SendWrapper;
use serde::Deserialize;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::{
    Cancel, Fault,
    files::{self, FileEntry},
    to_js,
};

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum DeviceKind {
    #[default]
    Gpu,
    Cpu,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum TowersWhen {
    Never,
    #[default]
    Lazy,
    Load,
}

/// A model that is about to be opened.
pub struct Opening {
    pub path: ModelPath,
    pub device: Device,
    pub options: LoadOptions,
    cancel: CancelToken,
    report: js_sys::Function,
}

impl Opening {
    /// Of the file or folder `path` among the files, with its device opened.
    pub async fn new(
        files: Vec<FileEntry>,
        path: String,
        options: JsValue,
        cancel: &Cancel,
        on_progress: js_sys::Function,
    ) -> Result<Self, Fault> {
        let path = files::at(files, path)?;
        let options: LoadOptions = read(&options)?;
        let device = options.open().await?;
        Ok(Self { path, device, options, cancel: cancel.token(), report: on_progress })
    }

    /// Tells the page of the load, which goes on as long as it is not cancelled.
    pub fn progress(&self) -> OnProgress {
        progress(self.report.clone(), self.cancel.clone())
    }

    pub fn generator(&self) -> GeneratorOptions {
        let on_progress = Some(self.progress());
        GeneratorOptions { cancel: Some(self.cancel.clone()), on_progress, ..self.options.generator() }
    }
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Kernels {
    #[default]
    Auto,
    Portable,
}

/// How a model is opened.
#[derive(Deserialize, Default, Clone, Copy)]
#[serde(default, deny_unknown_fields)]
pub struct LoadOptions {
    device: DeviceKind,
    kernels: Kernels,
    pub context: Option<usize>,
    towers: TowersWhen,
}

impl LoadOptions {
    /// Opens the device: a GPU, unless the processor is asked for.
    pub async fn open(&self) -> Result<Device, Fault> {
        let kernels = match self.kernels {
            Kernels::Auto => KernelTier::Auto,
            Kernels::Portable => KernelTier::Portable,
        };
        match self.device {
            DeviceKind::Cpu => Ok(Device::Cpu),
            DeviceKind::Gpu => match Device::Gpu.open_async(&GpuOptions { kernels, ..GpuOptions::default() }).await? {
                Opened::Gpu(context) => Ok(Device::Context(context)),
                Opened::Reference => Ok(Device::Cpu),
            },
        }
    }

    pub fn generator(&self) -> GeneratorOptions {
        GeneratorOptions { context: self.context, ..GeneratorOptions::default() }
    }

    pub fn towers(&self) -> Towers {
        match self.towers {
            TowersWhen::Never => Towers::Never,
            TowersWhen::Lazy => Towers::Lazy,
            TowersWhen::Load => Towers::AtLoad,
        }
    }
}

/// Reads an options object; `undefined` stands for none.
pub fn read<T: for<'de> Deserialize<'de> + Default>(options: &JsValue) -> Result<T, Fault> {
    if options.is_undefined() || options.is_null() {
        return Ok(T::default());
    }
    let text = String::from(js_sys::JSON::stringify(options)?);
    serde_json::from_str(&text).map_err(|error| Fault::input(format!("options: {error}")))
}

/// Tells a JavaScript function of the progress of a load, which goes on as long as `cancel` is not cancelled.
pub fn progress(report: js_sys::Function, cancel: CancelToken) -> OnProgress {
    let report = SendWrapper::new(report);
    Box::new(move |progress| {
        let phase = match progress.phase {
            UploadPhase::Reserving => "reserving",
            UploadPhase::Moving => "moving",
            UploadPhase::Finishing => "finishing",
        };
        let told = json!({ "phase": phase, "done": progress.done, "total": progress.total });
        // A report that fails is the page's own fault, and no reason to stop.
        let _ = to_js(&told).map(|told| report.call1(&JsValue::NULL, &told));
        !cancel.is_cancelled()
    })
}

/// The adapter in a report; none on the processor.
pub fn adapter(gpu: Option<&Arc<GpuContext>>) -> serde_json::Value {
    let Some(gpu) = gpu else { return serde_json::Value::Null };
    let device = gpu.capabilities();
    json!({
        "name": device.adapter,
        "backend": device.backend,
        "kind": device.kind.to_string(),
        "driver": device.driver,
        "f16": device.f16,
        "subgroups": device.subgroups,
        "maxBinding": device.max_binding,
        "maxBuffer": device.max_buffer,
        "maxStorageBuffers": device.max_storage_buffers,
        "maxInvocations": device.max_invocations,
        "maxWorkgroupStorage": device.max_workgroup_storage,
    })
}

/// How a conversation answers.
#[derive(Deserialize, Default, Clone)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Answering {
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    seed: Option<u64>,
    stop: Vec<String>,
    pub schema: Option<serde_json::Value>,
    pub system: Option<String>,
}

impl Answering {
    /// Over what the model's maker recommends, or the library's default.
    pub fn options(&self, recommended: Option<SampleOpts>) -> AnswerOptions {
        let stock = AnswerOptions::default();
        let mut sampling = recommended.unwrap_or(stock.sampling);
        if let Some(temperature) = self.temperature {
            sampling = sampling.with_temperature(temperature);
        }
        if let Some(top_k) = self.top_k {
            sampling = sampling.with_top_k(top_k);
        }
        if let Some(top_p) = self.top_p {
            sampling = sampling.with_top_p(top_p);
        }
        if let Some(seed) = self.seed {
            sampling = sampling.with_seed(seed);
        }
        AnswerOptions { sampling, max_tokens: self.max_tokens, stop: self.stop.clone(), ..stock }
    }
}
