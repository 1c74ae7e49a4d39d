use ndarray_rand::rand_distr::{Distribution, StandardNormal, Uniform};
use qnn_tensor::Tensor;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// How a parameter's first value is drawn.
///
/// With the fans of a kernel `[.., in, out]`, where `receptive` is the product of the leading axes
/// (1 for a dense kernel):
///
/// ```text
/// fan_in  = receptive · in
/// fan_out = receptive · out
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Initializer {
    /// U(−a, a), a = √(6 / (fan_in + fan_out)): Glorot & Bengio 2010, eq. (16); also called Xavier.
    GlorotUniform,
    /// N(0, σ²), σ = √(2 / (fan_in + fan_out)): the variance of Glorot & Bengio 2010, eq. (12). Not
    /// truncated.
    GlorotNormal,
    /// U(−a, a), a = √(6 / fan_in): the variance of He et al. 2015.
    HeUniform,
    /// N(0, σ²), σ = √(2 / fan_in): He et al. 2015, arXiv:1502.01852, eq. (10). Not truncated.
    HeNormal,
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// U(−a, a).
    Uniform(f32),
    /// N(0, σ²) with this σ. Not truncated.
    Normal(f32),
}

/// The source of first values: a seed and the number of parameters drawn so far.
///
/// Each drawn parameter has a stream of its own, so that its values depend on its number but not on
/// the sizes of the parameters before it.
///
/// ```
/// use qnn_layers::{Init, Initializer};
///
/// let mut init = Init::new(7);
/// let kernel = init.draw(Initializer::GlorotUniform, &[3, 3, 16, 32]);
/// let bound = (6.0_f32 / (9.0 * 16.0 + 9.0 * 32.0)).sqrt();
/// assert!(kernel.as_slice().iter().all(|w| w.abs() <= bound));
/// ```
#[derive(Clone, Debug)]
pub struct Init {
    seed: u64,
    drawn: u64,
}

impl Init {
    /// A source of first values.
    pub fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// The first value of a parameter.
    pub fn draw(&mut self, initializer: Initializer, shape: &[usize]) -> Tensor {
        let (fan_in, fan_out) = fans(shape);
        match initializer {
            Initializer::Zeros => Tensor::zeros(shape),
            Initializer::Ones => Tensor::full(shape, 1.0),
            Initializer::GlorotUniform => self.uniform(shape, (6.0 / (fan_in + fan_out)).sqrt()),
            Initializer::GlorotNormal => self.normal(shape, (2.0 / (fan_in + fan_out)).sqrt()),
            Initializer::HeUniform => self.uniform(shape, (6.0 / fan_in).sqrt()),
            Initializer::HeNormal => self.normal(shape, (2.0 / fan_in).sqrt()),
            Initializer::Uniform(bound) => self.uniform(shape, bound.into()),
            Initializer::Normal(deviation) => self.normal(shape, deviation.into()),
        }
    }

    fn uniform(&mut self, shape: &[usize], bound: f64) -> Tensor {
        let unit = Uniform::new_inclusive(-1.0, 1.0).expect("−1 is below 1");
        self.fill(shape, bound, unit)
    }

    fn normal(&mut self, shape: &[usize], deviation: f64) -> Tensor {
        self.fill(shape, deviation, StandardNormal)
    }

    fn fill(&mut self, shape: &[usize], factor: f64, unit: impl Distribution<f64>) -> Tensor {
        let mut rng = self.next_stream();
        let values = unit.sample_iter(&mut rng);
        Tensor::build(shape, |out| {
            out.iter_mut().zip(values).for_each(|(y, x)| *y = (factor * x) as f32);
        })
    }

    fn next_stream(&mut self) -> ChaCha8Rng {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[16..24].copy_from_slice(b"initial ");
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(self.drawn);
        self.drawn += 1;
        rng
    }
}

/// √(1.5 / (fan_in + fan_out)): by what BinaryConnect's published code divides the learning rates of
/// binary kernels (Courbariaux et al. 2015, arXiv:1511.00363, section 2.5).
///
/// ```
/// assert_eq!(qnn_layers::glorot_coefficient(&[3, 3, 16, 8]), (1.5 / (144.0 + 72.0_f64)).sqrt());
/// ```
pub fn glorot_coefficient(shape: &[usize]) -> f64 {
    let (fan_in, fan_out) = fans(shape);
    (1.5 / (fan_in + fan_out)).sqrt()
}

/// `(fan_in, fan_out)`; an axis that the shape lacks counts as 1.
fn fans(shape: &[usize]) -> (f64, f64) {
    let (outputs, rest) = shape.split_last().unwrap_or((&1, &[]));
    let (inputs, receptive) = rest.split_last().unwrap_or((&1, &[]));
    let receptive: f64 = receptive.iter().map(|&n| n as f64).product();
    (receptive * *inputs as f64, receptive * *outputs as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        (mean, variance)
    }

    #[test]
    fn the_variances_are_those_of_the_papers() {
        let shape = [3, 3, 40, 80];
        let (fan_in, fan_out) = (360.0, 720.0);
        let cases = [
            (Initializer::GlorotUniform, 2.0 / (fan_in + fan_out)),
            (Initializer::GlorotNormal, 2.0 / (fan_in + fan_out)),
            (Initializer::HeUniform, 2.0 / fan_in),
            (Initializer::HeNormal, 2.0 / fan_in),
            (Initializer::Uniform(0.3), 0.09 / 3.0),
            (Initializer::Normal(0.3), 0.09),
            (Initializer::Zeros, 0.0),
        ];
        for (initializer, expected) in cases {
            let (mean, variance) = moments(Init::new(3).draw(initializer, &shape).as_slice());
            assert!(mean.abs() < 0.01, "{initializer:?}: mean {mean}");
            assert!(
                (variance - expected).abs() <= 0.03 * expected,
                "{initializer:?}: {variance} for {expected}"
            );
        }
    }

    #[test]
    fn a_parameter_does_not_depend_on_the_sizes_of_those_before() {
        let second = |first: &[usize]| {
            let mut init = Init::new(1);
            init.draw(Initializer::HeNormal, first);
            init.draw(Initializer::HeNormal, &[5, 7])
        };
        assert_eq!(second(&[3]), second(&[100, 100]));
        let mut init = Init::new(1);
        init.draw(Initializer::Zeros, &[9]);
        assert_ne!(init.draw(Initializer::HeNormal, &[5, 7]), second(&[3]));
    }

    #[test]
    fn fans_of_all_ranks() {
        assert_eq!(fans(&[3, 5, 2, 4]), (30.0, 60.0));
        assert_eq!(fans(&[6, 4]), (6.0, 4.0));
        assert_eq!(fans(&[4]), (1.0, 4.0));
        assert_eq!(fans(&[]), (1.0, 1.0));
    }
}
