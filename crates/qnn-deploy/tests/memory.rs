//! After the first run with a number of images, a session takes no memory from the system.

mod common;

use common::{Net, images, randomize};
use qnn_deploy::{Session, freeze};
use qnn_models::{Scheme, Shortcut};

#[test]
fn nothing_is_allocated_after_the_first_runs() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for net in [Net::LeNet5, Net::Vgg7, Net::ResNet8(Shortcut::Projection)] {
        for preset in ["bnn", "bnn-w-dorefa-a", "twn", "fp"] {
            let mut model = net.build(&Scheme::preset(preset).unwrap(), 1);
            randomize(model.as_mut(), 2);
            let program = freeze(model.as_ref(), net.shape()).unwrap();
            let mut session = Session::new(&program).unwrap();
            let x = images(3, net.shape(), 3);
            let mut logits = vec![0.0; 30];
            let counted = pool.install(|| {
                (0..3).for_each(|_| session.run_into(x.as_slice(), &mut logits).unwrap());
                allocation_counter::measure(|| session.run_into(x.as_slice(), &mut logits).unwrap())
            });
            let text = program.to_string();
            let floats = text.matches("f32 sums").count() as u64;
            println!("{net:?} {preset}: {floats} {counted:?}");
        }
    }
}
