use crate::{Ctx, Error, Layer, Op, Signal, module};

/// `[n, ..]` becomes `[n, product of the rest]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flatten;

module!(Flatten {});

impl Layer for Flatten {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let got = x.shape();
        match got.len() {
            0 => Err(Error::Shape { layer: "flatten", expected: "[n, ..]".to_owned(), got }),
            2 => Ok(x),
            _ => {
                let y = x.map_codes(|codes| codes.flatten());
                cx.report("flatten", None, &[x.codes()], y.codes(), || Op::Flatten);
                Ok(y)
            }
        }
    }
}
