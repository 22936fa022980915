//! Tables that each layer has of its own, on the host: the same numbers with less of the device's memory.

mod common;

use common::oracle::{Oracle, worst};
use gemmaflow::{
    gemma::WeightPosition,
    generate::{GemmaGenerator, GeneratorOptions, MemoryPlan, SampleOpts, TablePlacement},
    runtime::{Device, GpuOptions},
};

fn generator(oracle: &Oracle, device: &Device, options: GeneratorOptions) -> gemmaflow::Result<GemmaGenerator> {
    let options = GeneratorOptions { prefill_chunk: Some(4), ..options };
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device.clone(), options)
}

fn placed(oracle: &Oracle, device: &Device, per_layer_tables: TablePlacement) -> GemmaGenerator {
    generator(oracle, device, GeneratorOptions { per_layer_tables, ..GeneratorOptions::default() }).unwrap()
}

fn table_bytes(oracle: &Oracle) -> u64 {
    oracle.config.weight_shape(WeightPosition::PleEmbed).iter().product::<usize>() as u64 * 4
}

#[test]
fn logits_and_text_are_those_of_transformers() {
    for device in [Device::Cpu, Device::Gpu] {
        for name in ["gemma3n", "gemma4-e2b"] {
            let oracle = Oracle::open(name);
            let mut generator = placed(&oracle, &device, TablePlacement::Host);
            for prompt in ["p1", "p7", "p33"] {
                let what = format!("{device:?} {name} {prompt}");
                let tokens = oracle.tokens(&format!("{prompt}.input_ids"));
                let expected = oracle.f32(&format!("{prompt}.logits"));
                assert!(worst(&generator.all_logits(&tokens).unwrap(), &expected) < oracle.gate(), "{what} in chunks");
                assert!(worst(&generator.recompute_all_logits(&tokens).unwrap(), &expected) < oracle.gate(), "{what} at once");
            }
            generator.prefill(oracle.tokens("p33.input_ids")).unwrap();
            let expected = oracle.tokens("p33.gen_tokens");
            assert_eq!(generator.generate_cached(expected.len(), &SampleOpts::greedy()).unwrap(), expected, "{device:?} {name}");
        }
    }
}

#[test]
fn the_device_holds_that_much_less() {
    let oracle = Oracle::open("gemma4-e2b");
    let [device, host] = [TablePlacement::Device, TablePlacement::Host].map(|place| placed(&oracle, &Device::Gpu, place).stats());
    let bytes = table_bytes(&oracle);
    assert!(host.weight_bytes + bytes <= device.weight_bytes && host.weight_bytes + bytes + 4096 > device.weight_bytes);
    let rows = oracle.config.per_layer_input.and_then(|input| input.vocab_size).unwrap() as u64;
    assert_eq!(host.bytes_per_token + bytes / rows, device.bytes_per_token, "one row of the table is what a token reads of it");
    let plain = Oracle::open("gemma4-dense");
    let stats = [TablePlacement::Host, TablePlacement::Auto].map(|place| placed(&plain, &Device::Gpu, place).stats());
    assert_eq!(stats[0], stats[1], "a model without such tables is as it was");
}

#[test]
fn a_budget_without_room_for_them_leaves_them_on_the_host() {
    let oracle = Oracle::open("gemma4-e2b");
    let context = common::open(&GpuOptions::default());
    let asked = |budget| GeneratorOptions {
        context: Some(64),
        prefill_chunk: Some(4),
        memory_budget: Some(budget),
        ..GeneratorOptions::default()
    };
    let plan = |options: &GeneratorOptions| {
        MemoryPlan::for_options(oracle.config.clone(), oracle.loader().as_mut(), context.capabilities(), options).unwrap()
    };
    let roomy = plan(&asked(1 << 32));
    let enough = roomy.peak() - 1;
    let tight = plan(&asked(enough));
    assert!(roomy.fits() && tight.fits(), "{roomy}; {tight}");
    assert_eq!(roomy.tensors, tight.tensors + 1);
    assert!(tight.weights + table_bytes(&oracle) <= roomy.weights);
    let mut generator = generator(&oracle, &Device::Gpu, asked(enough)).unwrap();
    assert!(generator.stats().weight_bytes <= tight.weights, "the plan counts what lies between weights too");
    let tokens = oracle.tokens("p33.input_ids");
    assert!(worst(&generator.all_logits(&tokens).unwrap(), &oracle.f32("p33.logits")) < oracle.gate());
    let stubborn = GeneratorOptions { per_layer_tables: TablePlacement::Device, ..asked(enough) };
    assert!(self::generator(&oracle, &Device::Gpu, stubborn).is_err(), "on the device there is no room");
}
