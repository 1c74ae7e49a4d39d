mod approx_sign;
mod clipped_identity;
mod clipped_unit;
mod custom;
mod dorefa_tanh;
mod scaled_sign_gradient;
mod straight_through;
mod xnor_net_gradient;

pub use approx_sign::ApproxSign;
pub use clipped_identity::ClippedIdentity;
pub use clipped_unit::ClippedUnit;
pub use custom::Custom;
pub use dorefa_tanh::DorefaTanh;
pub use scaled_sign_gradient::ScaledSignGradient;
pub use straight_through::StraightThrough;
pub use xnor_net_gradient::XnorNetGradient;
