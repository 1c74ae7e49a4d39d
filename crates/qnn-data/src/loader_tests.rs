use super::*;
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// `n` images of 4 × 3 whose bytes are all different functions of image and place.
fn images(n: usize, channels: usize) -> Arc<Images> {
    let size = 12 * channels;
    let pixels = (0..n * size).map(|i| (i * 7 + i / size * 3 + 1) as u8).collect();
    let labels = (0..n).map(|i| (i % 10) as u16).collect();
    Arc::new(
        Images::new("t", [4, 3, channels], pixels, labels, (0..10).map(|i| i.to_string()).collect()).unwrap(),
    )
}

fn config(batch: usize) -> LoaderConfig {
    LoaderConfig {
        batch,
        seed: 5,
        shuffle: true,
        augment: Augment::PadCropFlip { pad: 2, flip: true },
        ..LoaderConfig::default()
    }
}

/// Every image of an epoch by the plainest reading of the recipe: pad, cut out, mirror, normalise.
fn plain(images: &Images, config: &LoaderConfig, epoch: u64, image: usize) -> Vec<f32> {
    let [h, w, channels] = images.shape();
    let view = config.augment.draw(config.seed, epoch, image);
    let mut values = Vec::new();
    for (y, x, c) in (0..h).flat_map(|y| (0..w).flat_map(move |x| (0..channels).map(move |c| (y, x, c)))) {
        let x = if view.mirrored { w - 1 - x } else { x };
        let (y, x) = (y as isize + view.down, x as isize + view.right);
        let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&x);
        let v = if inside { images.pixels(image)[(y as usize * w + x as usize) * channels + c] } else { 0 };
        let of = |statistics: &[f32]| f64::from(statistics[c.min(statistics.len() - 1)]);
        values
            .push(((f64::from(v) / 255.0 - of(config.normalize.mean())) / of(config.normalize.std())) as f32);
    }
    values
}

#[test]
fn values_are_those_of_the_recipe() {
    for (channels, augment) in
        [1, 2, 3, 4].into_iter().flat_map(|c| [(c, Augment::None), (c, config(1).augment)])
    {
        let images = images(23, channels);
        let config = LoaderConfig { normalize: Normalize::fit(&images), augment, ..config(5) };
        let loader = Loader::new(Arc::clone(&images), config.clone()).unwrap();
        let order = loader.plan.order(2);
        for batch in loader.epoch(2) {
            let chosen = &order[batch.index * 5..][..batch.len()];
            let values: Vec<f32> = chosen.iter().flat_map(|&i| plain(&images, &config, 2, i)).collect();
            assert_eq!(batch.images, values);
            assert_eq!(batch.labels, chosen.iter().map(|i| i % 10).collect::<Vec<_>>());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn threads_and_starting_point_change_nothing(
        n in 1_usize..40, batch in 1_usize..50, first in 0_usize..12, epoch: u64,
        drop_last: bool, prefetch in 1_usize..100,
    ) {
        prop_assume!(!drop_last || batch <= n);
        let config = |prefetch| LoaderConfig { drop_last, prefetch, ..config(batch) };
        let with = |prefetch| Loader::new(images(n, 3), config(prefetch)).unwrap();
        let whole: Vec<Batch> = with(0).epoch(epoch).collect();
        prop_assert_eq!(&whole, &with(prefetch).epoch(epoch).collect::<Vec<_>>());
        let rest: Vec<Batch> = with(prefetch).epoch_from(epoch, first).collect();
        prop_assert_eq!(&whole[first.min(whole.len())..], &rest[..]);
        prop_assert_eq!(whole.len(), with(0).batches_per_epoch());
        prop_assert_eq!(whole.len(), if drop_last { n / batch } else { n.div_ceil(batch) });
    }
}

#[test]
fn an_epoch_shows_every_image_once_in_an_order_of_its_own() {
    let loader = Loader::new(images(100, 1), config(7)).unwrap();
    let orders = [0, 1].map(|epoch| loader.plan.order(epoch));
    assert_ne!(orders[0], orders[1]);
    for mut order in orders {
        order.sort_unstable();
        assert!(order.into_iter().eq(0..100));
    }
    let plain = Loader::new(images(100, 1), LoaderConfig { shuffle: false, ..config(7) }).unwrap();
    assert!(plain.plan.order(3).into_iter().eq(0..100));
    let sizes: Vec<usize> = plain.epoch(0).map(|batch| batch.len()).collect();
    assert_eq!(sizes, [[7; 14].as_slice(), &[2]].concat());
}

#[test]
fn augmentation_follows_the_image_not_its_place() {
    let images = images(30, 1);
    let shown = |shuffle| {
        let loader = Loader::new(Arc::clone(&images), LoaderConfig { shuffle, ..config(1) }).unwrap();
        let mut values: Vec<Vec<u32>> =
            loader.epoch(4).map(|b| b.images.iter().map(|x| x.to_bits()).collect()).collect();
        values.sort_unstable();
        values
    };
    assert_eq!(shown(true), shown(false));
}

#[test]
fn memory_comes_from_the_given_source() {
    let used = LoaderConfig { buffer: |n| vec![f32::NAN; n + 3], ..config(8) };
    let batches = |config| Loader::new(images(20, 3), config).unwrap().epoch(1).collect::<Vec<_>>();
    assert_eq!(batches(used), batches(config(8)));
    assert_eq!(batches(LoaderConfig { buffer: |_| Vec::new(), ..config(8) }), batches(config(8)));
}

#[test]
fn an_iterator_dropped_early_ends_its_thread() {
    let images = images(1000, 1);
    let loader = Loader::new(Arc::clone(&images), LoaderConfig { prefetch: 1, ..config(1) }).unwrap();
    let mut batches = loader.epoch(0);
    assert_eq!(batches.next().map(|batch| batch.index), Some(0));
    assert_eq!(batches.len(), 999);
    drop(batches);
    drop(loader);
    // The thread owned a share of the images; dropping waited for its end.
    assert_eq!(Arc::strong_count(&images), 1);
}

#[test]
fn a_panic_of_the_preparing_thread_reaches_the_caller() {
    for prefetch in [0, 3] {
        let config = LoaderConfig { prefetch, buffer: |_| panic!("no memory left"), ..config(4) };
        let mut batches = Loader::new(images(20, 1), config).unwrap().epoch(0);
        let payload = catch_unwind(AssertUnwindSafe(|| batches.next())).unwrap_err();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"no memory left"));
    }
}

#[test]
fn an_exhausted_iterator_stays_so() {
    let mut batches = Loader::new(images(3, 1), config(2)).unwrap().epoch(0);
    assert_eq!(batches.by_ref().count(), 2);
    assert_eq!(batches.next(), None);
    assert_eq!(Loader::new(images(3, 1), config(2)).unwrap().epoch_from(0, usize::MAX).count(), 0);
}

#[test]
fn senseless_settings_are_refused() {
    let refused = [
        LoaderConfig { batch: 0, ..config(1) },
        LoaderConfig { drop_last: true, ..config(11) },
        LoaderConfig { normalize: Normalize::new([0.0; 3], [1.0; 3]).unwrap(), ..config(1) },
        LoaderConfig { augment: Augment::PadCropFlip { pad: 4, flip: false }, ..config(1) },
        LoaderConfig { augment: Augment::PadCropFlip { pad: usize::MAX, flip: false }, ..config(1) },
    ];
    for config in refused {
        assert!(matches!(Loader::new(images(10, 1), config), Err(Error::Setting { .. })));
    }
    let large = LoaderConfig { batch: usize::MAX, prefetch: usize::MAX, ..config(1) };
    assert_eq!(
        Loader::new(images(10, 1), large).unwrap().epoch(0).map(|batch| batch.len()).collect::<Vec<_>>(),
        [10]
    );
}
