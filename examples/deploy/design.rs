//! The network that the flags name.

use qnn::prelude::*;

use crate::AnyError;
use crate::args::{Args, Network, ShortcutName};
use crate::trained::Trained;

/// The network under a preset, with the changes that the flags make to it, and with batch norm on the logits where the
/// trained one has it.
pub(crate) fn design(
    args: &Args,
    preset: &str,
    trained: Option<&Trained<'_>>,
) -> Result<Box<dyn Design>, AnyError> {
    let output_norm = args.output_norm || trained.is_some_and(Trained::has_output_norm);
    let mut scheme = Scheme::preset(preset)?;
    scheme.first_full_precision = args.first_fp.or(scheme.first_full_precision);
    scheme.last_full_precision = args.last_fp.or(scheme.last_full_precision);
    scheme.projections_full_precision |= args.fp_projections;
    if let Some(kernel) = args.kernels.pair()? {
        scheme.kernel = Some(kernel);
    }
    Ok(match args.network {
        Network::Lenet5 => Box::new(LeNet5Config { scheme, ..LeNet5Config::default() }),
        Network::Vgg7 => Box::new(Vgg7Config { scheme, ..Vgg7Config::default() }),
        Network::Mlp3 => {
            let width = args.width.unwrap_or(1024);
            Box::new(MlpConfig { scheme, output_norm, ..MlpConfig::mlp3(width) })
        }
        Network::BnnCnn => {
            let width = args.width.unwrap_or(128);
            Box::new(BnnCnnConfig { scheme, width, output_norm, ..BnnCnnConfig::default() })
        }
        Network::Resnet => {
            let shortcut = match args.shortcut {
                None | Some(ShortcutName::Projection) => Shortcut::Projection,
                Some(ShortcutName::ProjectionNorm) => Shortcut::ProjectionNorm,
                Some(ShortcutName::PadZero) => Shortcut::PadZero,
                Some(ShortcutName::None) => Shortcut::None,
            };
            Box::new(ResNetConfig { scheme, shortcut, ..ResNetConfig::from_depth(args.depth.unwrap_or(20))? })
        }
    })
}
