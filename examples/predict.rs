//! Classifies images with a packed model, as `deploy` writes them.
//!
//! ```text
//! cargo run --release --example predict -- --model model.qnn cat.png dog.ppm
//! cargo run --release --example predict -- --model model.qnn --dataset mnist --data data --count 5
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use image::ImageReader;
use qnn::deploy::{Program, Session};
use qnn::experiment::{check_instruction_set, say};
use qnn::prelude::*;

/// Classifies image files, or test images of a data set, with a packed model
#[derive(Parser)]
#[command(name = "predict", max_term_width = 100)]
struct Args {
    /// The packed model
    #[arg(long, value_name = "FILE", default_value = "model.qnn")]
    model: PathBuf,

    /// How many classes to print for each image
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one())]
    top: usize,

    /// Classify test images of this data set
    #[arg(long, value_name = "NAME", conflicts_with = "images")]
    dataset: Option<DatasetName>,

    /// Where the data of --dataset are: auto, embedded, or a folder
    #[arg(long, value_name = "auto|embedded|PATH", default_value = "auto", conflicts_with = "images")]
    data: Source,

    /// How many test images of --dataset to classify
    #[arg(long, value_name = "N", default_value_t = 10, conflicts_with = "images", value_parser = at_least_one())]
    count: usize,

    /// PNG, PPM or PGM files, of any size
    #[arg(value_name = "IMAGE", required_unless_present = "dataset")]
    images: Vec<PathBuf>,
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all images could be classified.
fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    check_instruction_set()?;
    let program = Program::load(&args.model)?;
    let mut session = Session::new(&program)?;
    if let Some(name) = args.dataset {
        let test = test_images(args, name, &program)?;
        for i in 0..test.len() {
            let label = &test.class_names()[usize::from(test.labels()[i])];
            print(args, &program, &format!("test image {i} ({label})"), &session.run(test.pixels(i))?);
        }
    }
    let mut all = true;
    for path in &args.images {
        match read(path, program.input_shape()) {
            Ok(image) => {
                print(args, &program, &path.display().to_string(), &session.run(image.pixels(0))?);
            }
            // One bad file of many must not hide what the others show.
            Err(error) => {
                eprintln!("error: {}: {error}", path.display());
                all = false;
            }
        }
    }
    Ok(all)
}

/// Test images at the shape that the model takes, with a warning if it tells other things apart.
fn test_images(args: &Args, name: DatasetName, program: &Program) -> Result<Images, Box<dyn Error>> {
    let loaded = qnn::data::load(name, &args.data)?;
    loaded.notice.iter().for_each(|notice| eprintln!("{notice}"));
    let test = loaded.dataset.test;
    if !program.classes().is_empty() && program.classes() != test.class_names() {
        let (here, there) = (program.classes().join(", "), test.class_names().join(", "));
        let name = test.name();
        eprintln!("warning: the model tells {here} apart, and the images of {name} show {there}");
    }
    Ok(test.take(args.count).fit_to(program.input_shape())?)
}

/// An image file, of a format that its contents tell, at the shape that the model takes.
fn read(path: &Path, shape: [usize; 3]) -> Result<Images, Box<dyn Error>> {
    let image = ImageReader::open(path)?.with_guessed_format()?.decode()?;
    if image.color().has_alpha() && image.to_rgba8().pixels().any(|pixel| pixel[3] < u8::MAX) {
        return Err(
            "it has transparent pixels: put it on a background of the kind that the model was trained on"
                .into(),
        );
    }
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (channels, pixels) = match shape[2] {
        1 => (1, image.into_luma8().into_raw()),
        _ => (3, image.into_rgb8().into_raw()),
    };
    let whole = Images::new("file", [height, width, channels], pixels, vec![0], vec!["unknown".to_owned()])?;
    Ok(whole.fit_to(shape)?)
}

/// The classes of the largest logits, with their softmax.
fn print(args: &Args, program: &Program, title: &str, logits: &[f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let name =
        |class: usize| program.classes().get(class).cloned().unwrap_or_else(|| format!("class {class}"));
    let best = order
        .iter()
        .take(args.top)
        .map(|&class| format!("{} {:.1} %", name(class), 100.0 * weights[class] / sum));
    say(format_args!("{title}: {}", best.collect::<Vec<_>>().join(", ")));
}
