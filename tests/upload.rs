//! Weights on the device, on a real driver: bit for bit what the file holds, however they are split.

use std::sync::{Arc, Mutex};

use gemmaflow::{
    Error, Result,
    error::{DeviceError, WeightError},
    gemma::{GemmaConfig, random_weights},
    internals::runtime::{ResidentWeight, WeightUploader},
    ir::DType,
    runtime::{Device, GpuContext, GpuOptions, Opened, UploadPhase, UploadProgress},
    weights::{Tensor, TensorSource, WeightLoader},
};

fn open(max_binding: Option<u64>, max_buffer: Option<u64>) -> Arc<GpuContext> {
    let options = GpuOptions { max_binding, max_buffer, ..GpuOptions::default() };
    match Device::Gpu.open(&options).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

/// Bytes that differ everywhere, and the largest single read.
struct Pattern(Mutex<usize>);

fn byte_at(index: u64) -> u8 {
    (index.wrapping_mul(0x9e3779b97f4a7c15) >> 56) as u8
}

impl TensorSource for Pattern {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut largest = self.0.lock().unwrap();
        *largest = out.len().max(*largest);
        out.iter_mut().enumerate().for_each(|(i, byte)| *byte = byte_at(offset + i as u64));
        Ok(())
    }
}

fn pattern(dtype: DType, shape: &[usize], offset: u64) -> (Tensor, Arc<Pattern>) {
    let source = Arc::new(Pattern(Mutex::new(0)));
    (Tensor::new(format!("{dtype} {shape:?}"), dtype, shape.to_vec(), source.clone(), offset), source)
}

/// All bytes of a weight as they lie on the device.
fn read(context: &GpuContext, weight: &ResidentWeight) -> Vec<u8> {
    let mut bytes = Vec::new();
    for shard in &weight.shards {
        let mut part = vec![0; shard.bytes as usize];
        context.read_back(&shard.buffer, shard.offset, &mut part).unwrap();
        bytes.extend(part);
    }
    bytes
}

fn check_shards(context: &GpuContext, weight: &ResidentWeight) {
    let rows = weight.shape.first().copied().unwrap_or(1);
    let mut next = 0;
    for (index, shard) in weight.shards.iter().enumerate() {
        assert_eq!(shard.rows.start, next);
        next = shard.rows.end;
        assert!(shard.offset.is_multiple_of(256) && shard.binding_bytes().is_multiple_of(16));
        assert!(shard.binding_bytes() <= context.capabilities().max_binding);
        assert!(shard.offset + shard.binding_bytes() <= shard.buffer.size());
        assert!(index + 1 == weight.shards.len() || shard.rows.len().is_multiple_of(64), "{:?}", shard.rows);
    }
    assert_eq!(next, rows);
}

const SHAPES: [(DType, &[usize]); 8] = [
    (DType::F32, &[1]),
    (DType::BF16, &[1]),
    (DType::BF16, &[640]),
    (DType::BF16, &[3, 5]),
    (DType::F16, &[257, 33]),
    (DType::F32, &[1001, 777]),
    (DType::BF16, &[4099, 641]),
    (DType::BF16, &[7, 9, 11]),
];

#[test]
fn uploads_come_back_bit_for_bit_under_lowered_limits() {
    for (max_binding, max_buffer) in [(None, None), (Some(1 << 20), None), (Some(1 << 20), Some(3 << 20))] {
        let context = open(max_binding, max_buffer);
        let tensors: Vec<_> = SHAPES.iter().map(|(dtype, shape)| pattern(*dtype, shape, 3 * shape.len() as u64)).collect();
        let mut uploader = WeightUploader::new(&context).unwrap();
        let staging = context.counters().snapshot().bytes_live;
        uploader.reserve(SHAPES).unwrap();
        let reserved = context.counters().snapshot();
        let weights: Vec<_> = tensors.iter().map(|(tensor, _)| uploader.upload(tensor).unwrap()).collect();
        assert_eq!(context.counters().snapshot().buffers_created, reserved.buffers_created, "all was reserved");
        uploader.finish().unwrap();
        for ((tensor, source), weight) in tensors.iter().zip(&weights) {
            check_shards(&context, weight);
            let first = 3 * tensor.shape().len() as u64;
            let expected: Vec<u8> = (0..tensor.byte_len() as u64).map(|i| byte_at(first + i)).collect();
            assert!(read(&context, weight) == expected, "{tensor:?} with bindings of {max_binding:?}");
            assert!(*source.0.lock().unwrap() <= 1 << 20, "a whole tensor was read at once");
        }
        let split = weights.iter().filter(|w| w.shards.len() > 1).count();
        assert_eq!(split, if max_binding.is_some() { 2 } else { 0 });
        context.release_staging();
        let held = context.counters().snapshot().bytes_live;
        assert_eq!(held, reserved.bytes_live - staging, "staging was freed");
        let exact: u64 = weights.iter().map(ResidentWeight::byte_len).sum();
        assert!(held - exact <= 256 * weights.iter().map(|w| w.shards.len() as u64).sum::<u64>(), "{held} for {exact}");
        drop(weights);
        assert_eq!(context.counters().snapshot().bytes_live, 0);
    }
}

#[test]
fn a_tensor_larger_than_the_staging_ring_arrives_whole() {
    let context = open(None, None);
    let (tensor, _) = pattern(DType::BF16, &[6007, 3001], 1);
    let mut uploader = WeightUploader::new(&context).unwrap();
    let weight = uploader.upload(&tensor).unwrap();
    uploader.finish().unwrap();
    let expected: Vec<u8> = (0..tensor.byte_len() as u64).map(|i| byte_at(1 + i)).collect();
    assert!(read(&context, &weight) == expected);
}

#[test]
fn the_padding_behind_a_weight_is_zero() {
    let context = open(None, None);
    let (tensor, _) = pattern(DType::BF16, &[3, 3], 0);
    let mut uploader = WeightUploader::new(&context).unwrap();
    let weight = uploader.upload(&tensor).unwrap();
    let values = uploader.upload_f32(&[1.5, -2.25, f32::MIN_POSITIVE]).unwrap();
    uploader.finish().unwrap();
    let shard = &weight.shards[0];
    let mut area = vec![1; shard.binding_bytes() as usize];
    context.read_back(&shard.buffer, shard.offset, &mut area).unwrap();
    assert_eq!(area[18..], [0; 14]);
    assert_eq!(read(&context, &values), bytemuck::cast_slice::<f32, u8>(&[1.5, -2.25, f32::MIN_POSITIVE]));
}

#[test]
fn a_row_larger_than_a_binding_and_an_empty_weight_are_errors() {
    let context = open(Some(1 << 20), None);
    let mut uploader = WeightUploader::new(&context).unwrap();
    let error = uploader.upload(&pattern(DType::F32, &[2, (1 << 18) + 1], 0).0).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::Limit { needed, .. }) if needed == (1 << 20) + 4), "{error}");
    assert!(matches!(uploader.upload(&pattern(DType::F32, &[0, 4], 0).0), Err(Error::Input { .. })));
    let huge: &[usize] = &[usize::MAX, usize::MAX, 4];
    assert!(uploader.reserve([(DType::F32, huge)]).is_err());
    // Rows so wide that 64 of them do not fit are grouped by a power of two.
    let weight = uploader.upload(&pattern(DType::F32, &[21, 1 << 14], 0).0).unwrap();
    assert_eq!(weight.shards.iter().map(|s| s.rows.len()).collect::<Vec<_>>(), [16, 5]);
}

#[test]
fn progress_reaches_the_total_and_can_stop_the_upload() {
    let context = open(None, None);
    let (tensor, _) = pattern(DType::F32, &[1024, 1536], 0);
    let seen = Arc::new(Mutex::new(Vec::<UploadProgress>::new()));
    let log = seen.clone();
    let mut uploader = WeightUploader::new(&context).unwrap().on_progress(move |p| {
        log.lock().unwrap().push(p);
        true
    });
    uploader.reserve([(tensor.dtype(), tensor.shape())]).unwrap();
    uploader.upload(&tensor).unwrap();
    uploader.finish().unwrap();
    let steps = seen.lock().unwrap().clone();
    let [first, moving @ .., last] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(first, &UploadProgress { phase: UploadPhase::Reserving, done: 0, total: 6 << 20 });
    assert!(moving.iter().all(|step| step.phase == UploadPhase::Moving) && moving.len() >= 6);
    assert!(moving.windows(2).all(|w| w[0].done < w[1].done) && moving.last().unwrap().done == 6 << 20);
    assert_eq!(last, &UploadProgress { phase: UploadPhase::Finishing, done: 6 << 20, total: 6 << 20 });

    let mut uploader = WeightUploader::new(&context).unwrap().on_progress(|p| p.done < 3 << 20);
    assert!(matches!(uploader.upload(&tensor), Err(Error::Cancelled(_))));
    drop(uploader);
    assert_eq!(context.counters().snapshot().bytes_live, 0);
    // Before anything moves, and when all has.
    let mut uploader = WeightUploader::new(&context).unwrap().on_progress(|_| false);
    let created = context.counters().snapshot().buffers_created;
    assert!(matches!(uploader.reserve([(tensor.dtype(), tensor.shape())]), Err(Error::Cancelled(_))));
    assert_eq!(context.counters().snapshot().buffers_created, created);
    drop(uploader);
    let mut uploader = WeightUploader::new(&context).unwrap().on_progress(|p| p.phase != UploadPhase::Finishing);
    uploader.upload(&tensor).unwrap();
    assert!(matches!(uploader.finish(), Err(Error::Cancelled(_))));
    assert_eq!(context.counters().snapshot().bytes_live, 0);
}

/// The published PCG output function and the shader's recipe, written again on the host.
fn drawn(seed: u32, element: u32, scale: f32) -> f32 {
    fn pcg(value: u32) -> u32 {
        let state = value.wrapping_mul(747796405).wrapping_add(2891336453);
        let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277803737);
        (word >> 22) ^ word
    }
    let bits = pcg(pcg(element ^ pcg(seed)).wrapping_add(seed.wrapping_mul(0x9e3779b9)));
    ((bits >> 8) as f32 / 8388608.0 - 1.0) * scale
}

#[test]
fn random_weights_have_the_same_bits_on_the_host_and_on_the_device() {
    let context = open(None, None);
    let config = GemmaConfig::tiny_test();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut loader = random_weights(&config, dtype, 5).unwrap();
        let mut uploader = WeightUploader::new(&context).unwrap();
        let tensors: Vec<_> = loader.remaining_keys().iter().map(|key| loader.take(key).unwrap()).collect();
        let before = context.counters().snapshot().bytes_uploaded;
        let weights: Vec<_> = tensors.iter().map(|t| uploader.upload(t).unwrap()).collect();
        let uploaded = context.counters().snapshot().bytes_uploaded - before;
        uploader.finish().unwrap();
        assert!(uploaded < 64 * tensors.len() as u64, "{uploaded} bytes crossed to the device");
        for (tensor, weight) in tensors.iter().zip(&weights) {
            let mut host = vec![0; tensor.byte_len()];
            tensor.read_bytes(0, &mut host).unwrap();
            assert!(read(&context, weight) == host, "{tensor:?}");
            let mut part = vec![0; tensor.byte_len() - 7];
            tensor.read_bytes(5, &mut part[..tensor.byte_len() - 8]).unwrap();
            assert!(part[..tensor.byte_len() - 8] == host[5..tensor.byte_len() - 3], "{tensor:?} in part");
            let fill = tensor.random().unwrap();
            let values = tensor.to_f32().unwrap();
            let close = |(i, v): (usize, &f32)| (v - drawn(fill.seed, i as u32, fill.scale)).abs() <= fill.scale / 256.0;
            assert!(values.iter().enumerate().all(close), "{tensor:?}");
        }
    }
}

#[test]
fn random_weights_are_uniform_and_do_not_depend_on_the_split() {
    let (whole, split) = (open(None, None), open(Some(1 << 20), None));
    let shape = [1003, 517];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let make = |context: &Arc<GpuContext>, seed| {
            let mut uploader = WeightUploader::new(context).unwrap();
            let weight = uploader.upload_random(&shape, dtype, seed, 0.125).unwrap();
            uploader.finish().unwrap();
            (read(context, &weight), weight.shards.len())
        };
        let (bytes, _) = make(&whole, 11);
        let (again, shards) = make(&split, 11);
        assert!(bytes == again, "{dtype} in {shards} shards");
        assert_eq!(shards, if dtype == DType::F32 { 3 } else { 1 });
        assert!(bytes != make(&whole, 12).0);
        let values = Tensor::from_bytes("random", dtype, shape.to_vec(), bytes).unwrap().to_f32().unwrap();
        for (index, &value) in values.iter().enumerate() {
            let exact = drawn(11, index as u32, 0.125);
            let expected = match dtype {
                DType::F32 => exact,
                DType::F16 => half::f16::from_f32(exact).to_f32(),
                _ => half::bf16::from_f32(exact).to_f32(),
            };
            assert_eq!(value.to_bits(), expected.to_bits(), "{dtype} {index}: {value} for {expected}");
        }
        // Mean 0 and variance scale²/3 of the uniform distribution, within five standard errors.
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 5.0 * 0.125 / (3.0 * n).sqrt(), "{mean}");
        assert!((variance / (0.125f64.powi(2) / 3.0) - 1.0).abs() < 5.0 * (0.8 / n).sqrt(), "{variance}");
    }
    let mut uploader = WeightUploader::new(&whole).unwrap();
    assert!(matches!(uploader.upload_random(&[4], DType::U32, 0, 1.0), Err(Error::Weight(WeightError::Type { .. }))));
}
