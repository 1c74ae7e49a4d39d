//! Sums in f32 whose functions end in a sign: a comparison with one number, and so an affine map.

use crate::chain::Functions;
use crate::cuts::{key, number};
use crate::program::{Chain, Link};

/// Searching with more functions of single channels than this would be noticed when loading.
const MOST_FUNCTIONS: usize = 1 << 16;

/// Scale and bias of each channel after which a sum's sign is that of its functions' code, if they are known to be monotone and agree wherever
/// they are asked.
///
/// ```text
/// rising    code = +1   ⇔   acc ≥ cut   ⇔    acc − cut ≥ 0
/// falling   code = +1   ⇔   acc ≤ cut   ⇔   −acc + cut ≥ 0
/// ```
///
/// The sign of a rounded difference is that of the exact one, so no functions need run after the sum.
pub(crate) fn sign_map(chain: &Chain, functions: &Functions, channels: usize) -> Option<[Vec<f32>; 2]> {
    let quantized = matches!(chain.links.last(), Some(Link::Quantize { .. }));
    let few = channels.saturating_mul(chain.links.len()) <= MOST_FUNCTIONS;
    if !quantized || !few || !chain.links.iter().all(Link::is_monotone) {
        return None;
    }
    let mut asked = Asked { functions, row: vec![0.0; channels] };
    let map = asked.search();
    asked.agree(&map).then_some(map)
}

/// Functions under question.
struct Asked<'a> {
    functions: &'a Functions,
    row: Vec<f32>,
}

impl Asked<'_> {
    /// The code of each channel at a sum of its own.
    fn codes(&mut self, sum: impl Fn(usize) -> f32) -> &[f32] {
        self.row.iter_mut().enumerate().for_each(|(channel, x)| *x = sum(channel));
        self.functions.apply(&mut self.row, &[]);
        &self.row
    }

    /// By bisection of all channels at once, over the finite numbers in ascending order.
    fn search(&mut self) -> [Vec<f32>; 2] {
        let channels = self.row.len();
        let lowest = self.codes(|_| f32::MIN).to_vec();
        let falls: Vec<bool> =
            lowest.iter().zip(self.codes(|_| f32::MAX)).map(|(low, high)| low > high).collect();
        let (first, last) = (i64::from(key(f32::MIN)), i64::from(key(f32::MAX)));
        // The least key at which a rising code is +1, or a falling one is −1, lies in low + 1 ..= high.
        let (mut low, mut high) = (vec![first - 1; channels], vec![last + 1; channels]);
        while low.iter().zip(&high).any(|(low, high)| high - low > 1) {
            let middle: Vec<i64> =
                low.iter().zip(&high).map(|(low, high)| (low + high).div_euclid(2)).collect();
            let codes = self.codes(|channel| number(middle[channel].clamp(first, last) as i32));
            for channel in 0..channels {
                if high[channel] - low[channel] > 1 {
                    let reached = (codes[channel] > 0.0) != falls[channel];
                    let bound = if reached { &mut high[channel] } else { &mut low[channel] };
                    *bound = middle[channel];
                }
            }
        }
        let of = |channel: usize| match (high[channel], falls[channel]) {
            (at, true) => (-1.0, number((at - 1) as i32)),
            // Nothing reaches it.
            (at, false) if at > last => (1.0, f32::NEG_INFINITY),
            (at, false) => (1.0, -number(at as i32)),
        };
        let (scale, bias) = (0..channels).map(of).unzip();
        [scale, bias]
    }

    /// Compares the map with the functions beside every cut, at both zeros and all over the line.
    fn agree(&mut self, [scale, bias]: &[Vec<f32>; 2]) -> bool {
        let mut same = |sum: &dyn Fn(usize) -> f32| {
            let mut codes = self.codes(sum).iter().enumerate();
            codes.all(|(o, &code)| (code > 0.0) == (sum(o) * scale[o] + bias[o] >= 0.0))
        };
        let cut = |o: usize| (-bias[o] * scale[o]).clamp(f32::MIN, f32::MAX);
        let beside: [&dyn Fn(usize) -> f32; 3] =
            [&|o| cut(o).next_down().max(f32::MIN), &cut, &|o| cut(o).next_up().min(f32::MAX)];
        let line = (-2048..2048).map(|at| number(at << 20)).filter(|x| x.is_finite());
        let mut anywhere = line.chain((-256..=256).map(|i| i as f32 / 8.0)).chain([0.0, -0.0]);
        beside.into_iter().all(&mut same) && anywhere.all(|x| same(&|_| x))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use qnn_quant::Alphabet;

    use super::*;
    use crate::program::Data;
    use crate::tensors::Tensors;

    /// Batch norm with these parameters, a ReLU with this slope for negative numbers, and a sign that begins at `cut`.
    fn chain(norm: &[[f32; 3]], slope: f32, cut: f32) -> (Chain, BTreeMap<String, Data>) {
        let part = |i: usize| Data::Floats(norm.iter().map(|parameters| parameters[i]).collect());
        let names = ["mean", "s", "beta"].map(str::to_owned);
        let mut data: BTreeMap<String, Data> = (0..3).map(|i| (names[i].clone(), part(i))).collect();
        data.insert("cuts".to_owned(), Data::Floats(vec![cut]));
        let [mean, s, beta] = names;
        let quantize = Link::Quantize { alphabet: Alphabet::BINARY, cuts: "cuts".to_owned() };
        (Chain { links: vec![Link::Norm { mean, s, beta }, Link::LeakyRelu { slope }, quantize] }, data)
    }

    fn parameter() -> impl Strategy<Value = f32> {
        let extremes = vec![0.0, -0.0, 1e-45, 3e38, -3e38, 1e30, 1.0];
        prop_oneof![
            -8.0_f32..8.0,
            (-16_i32..16).prop_map(|n| n as f32 / 4.0),
            proptest::sample::select(extremes)
        ]
    }

    proptest! {
        #[test]
        fn a_map_is_the_functions_at_every_sum(
            norm in proptest::collection::vec([parameter(), parameter(), parameter()], 1..5),
            slope in prop_oneof![Just(1.0), 0.01_f32..2.0],
            cut in parameter(),
            sums in proptest::collection::vec(prop_oneof![parameter(), any::<i32>().prop_map(number)], 50),
        ) {
            let (chain, data) = chain(&norm, slope, cut);
            let functions = Functions::new(&chain, norm.len(), &Tensors { data: &data, stage: 0 }).unwrap();
            let Some([scale, bias]) = sign_map(&chain, &functions, norm.len()) else {
                // Only where something overflows on the way may a map be missing.
                let large = norm.iter().flatten().any(|x| x.abs() > 8.0);
                prop_assert!(large, "no map for {norm:?}");
                return Ok(());
            };
            for sum in sums.into_iter().filter(|sum| sum.abs() < 1e6) {
                let mut row = vec![sum; norm.len()];
                functions.apply(&mut row, &[]);
                for o in 0..norm.len() {
                    prop_assert_eq!(row[o] > 0.0, sum * scale[o] + bias[o] >= 0.0, "{:?} at {}", norm[o], sum);
                }
            }
        }
    }

    #[test]
    fn long_chains_of_many_channels_are_not_searched() {
        let map = |channels: usize, hard_tanhs: usize| {
            let (mut chain, data) = chain(&vec![[0.0, 1.0, 0.0]; channels], 1.0, 0.5);
            chain.links.splice(1..1, vec![Link::HardTanh; hard_tanhs]);
            let functions = Functions::new(&chain, channels, &Tensors { data: &data, stage: 0 }).unwrap();
            sign_map(&chain, &functions, channels)
        };
        assert!(map(1024, 1).is_some());
        assert!(map(1024, 62).is_none());
    }

    #[test]
    fn what_goes_up_and_down_has_none() {
        let (chain, data) = chain(&[[0.0, 1.0, 0.0]], -1.0, 5.0);
        let functions = Functions::new(&chain, 1, &Tensors { data: &data, stage: 0 }).unwrap();
        assert!(sign_map(&chain, &functions, 1).is_none());
    }
}
