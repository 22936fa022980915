//! Routes and products with experts.

use crate::{
    ir::{
        DType, DimBinding, Graph,
        kernel::Target,
        ops::{ExpertLinear, Route},
    },
    lower::tests::{lowered, lowered_for, option, shaders, x},
};

/// Two of six experts for each of `rows` rows, from 8 columns to 8 and on to 16.
fn mixture(rows: usize) -> Graph {
    let mut g = Graph::new("mixture");
    let logits = x(&mut g, "logits", &[1, rows, 6]);
    let h = x(&mut g, "x", &[1, rows, 1, 8]);
    let scales = g.weight("scales", DType::F32, &[6]).unwrap();
    let route = g.push(Route { k: 2 }, &[logits, scales]).unwrap();
    let up = g.weight("up", DType::F32, &[6 * 8, 8]).unwrap();
    let h = g.push(ExpertLinear { experts: 6 }, &[h, up, route]).unwrap();
    let h = g.gelu(h).unwrap();
    let down = g.weight("down", DType::F32, &[6 * 16, 8]).unwrap();
    let y = g.push(ExpertLinear { experts: 6 }, &[h, down, route]).unwrap();
    g.output("y", y);
    g
}

#[test]
fn few_rows_take_their_experts_one_by_one_and_many_in_groups() {
    let few = lowered(&mixture(8));
    assert_eq!(shaders(&few), ["route", "linear_vec", "region", "linear_vec"]);
    assert_eq!((option(&few, 1, "EXPERTS"), option(&few, 1, "ROWS")), ("each", "1"));
    let more = lowered(&mixture(9));
    assert_eq!(shaders(&more), ["route", "expert_tiles", "linear_vec", "region", "expert_tiles", "linear_vec"]);
    assert_eq!(option(&more, 2, "EXPERTS"), "tiles");
    let many = lowered(&mixture(64));
    assert_eq!(shaders(&many), ["route", "expert_tiles", "linear_tile_shared", "region", "expert_tiles", "linear_tile_shared"]);
}

#[test]
fn each_shard_of_the_experts_is_a_dispatch() {
    // 80 rows of 32 bytes: all 48 of the first weight, 64 of the second's 96.
    let target = Target { max_binding: 2560, ..Target::portable() };
    let plan = lowered_for(&mixture(2), &DimBinding::new(), &target);
    assert_eq!(shaders(&plan), ["route", "linear_vec", "region", "linear_vec", "linear_vec"]);
    let size = |dispatch: usize, name: &str| {
        plan.dispatches[dispatch].kernel.overrides.iter().find(|(n, _)| *n == name).map(|(_, value)| *value as usize)
    };
    let rows = [3, 4].map(|dispatch| (size(dispatch, "FIRST_ROW").unwrap(), size(dispatch, "BOUND").unwrap()));
    assert_eq!(rows, [(0, 64), (64, 32)]);
}

#[test]
fn products_of_other_shapes_are_refused() {
    let mut g = Graph::new("refused");
    let h = x(&mut g, "x", &[1, 4, 3, 16]);
    let route = x(&mut g, "route", &[1, 4, 2, 2]);
    let weight = g.weight("w", DType::F32, &[48, 16]).unwrap();
    let error = g.push(ExpertLinear { experts: 6 }, &[h, weight, route]).unwrap_err().to_string();
    assert!(error.contains("6 experts"), "{error}");
    let h = x(&mut g, "h", &[1, 4, 1, 16]);
    assert!(g.push(ExpertLinear { experts: 7 }, &[h, weight, route]).is_err());
    assert!(g.push(ExpertLinear { experts: 2000 }, &[h, weight, route]).is_err());
    let logits = x(&mut g, "logits", &[4, 6]);
    let scales = g.weight("scales", DType::F32, &[6]).unwrap();
    assert!(g.push(Route { k: 7 }, &[logits, scales]).is_err() && g.push(Route { k: 0 }, &[logits, scales]).is_err());
}
