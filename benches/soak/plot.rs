//! The picture of a run: memory over time as a PNG. Its letters come with the drawing library: a
//! machine that measures need not have any fonts.

use std::{fs::File, io::BufWriter, path::Path};

use embedded_graphics::{
    mono_font::{
        MonoFont, MonoTextStyle,
        iso_8859_1::{FONT_9X15, FONT_10X20},
    },
    pixelcolor::Rgb888,
    prelude::*,
    primitives::{Line, Polyline, PrimitiveStyle, Rectangle},
    text::{Alignment, Baseline, Text, TextStyleBuilder},
};

use super::{
    Growth, MEBIBYTE,
    samples::{Log, Sample},
};
use crate::measure::Outcome;

const WIDTH: u32 = 1200;
const HEIGHT: u32 = 600;
/// The rectangle of the curves: left, top, right, bottom.
const FRAME: [i32; 4] = [90, 90, 1170, 530];
const LINES: f64 = 6.0;

const WHITE: Rgb888 = Rgb888::WHITE;
const BLACK: Rgb888 = Rgb888::new(40, 40, 40);
const GREY: Rgb888 = Rgb888::new(225, 225, 225);
const CYCLE: Rgb888 = Rgb888::new(255, 240, 214);
const RESIDENT: Rgb888 = Rgb888::new(31, 119, 180);
const ANONYMOUS: Rgb888 = Rgb888::new(214, 96, 20);

/// What of a sample a curve shows, in bytes.
type Column = fn(&Sample) -> f64;

/// Draws all samples into a file.
pub fn draw(log: &Log, growth: &Growth, path: &Path) -> Outcome {
    let mut canvas = Canvas::new();
    let scale = Scale::of(log);
    for sample in log.samples().iter().filter(|s| s.counts.cycling) {
        let at = scale.point(sample.seconds, 0.0).x;
        canvas.line(
            [Point::new(at, FRAME[1]), Point::new(at, FRAME[3])],
            (CYCLE, 2),
        )?;
    }
    axes(&mut canvas, &scale)?;
    let curves: [(Column, Rgb888); 2] = [
        (|sample| sample.resident, RESIDENT),
        (|sample| sample.anonymous, ANONYMOUS),
    ];
    for (column, colour) in curves {
        let samples = log.samples().iter();
        let points: Vec<Point> = samples
            .map(|sample| scale.point(sample.seconds, column(sample)))
            .collect();
        Polyline::new(&points)
            .into_styled(PrimitiveStyle::with_stroke(colour, 2))
            .draw(&mut canvas)?;
    }
    words(&mut canvas, log, growth)?;
    canvas.write(path)
}

/// Where a sample is on the picture.
struct Scale {
    minutes: f64,
    /// Mebibytes between two horizontal lines.
    step: f64,
}

impl Scale {
    fn of(log: &Log) -> Self {
        let highest = log.highest(|sample| sample.resident) / MEBIBYTE;
        Self {
            minutes: log.highest(|sample| sample.seconds) / 60.0,
            step: round(highest / (LINES - 0.5)),
        }
    }

    fn point(&self, seconds: f64, bytes: f64) -> Point {
        let [left, top, right, bottom] = FRAME.map(f64::from);
        let across = seconds / 60.0 / self.minutes;
        let up = bytes / MEBIBYTE / (self.step * LINES);
        Point::new(
            (left + across * (right - left)) as i32,
            (bottom - up * (bottom - top)) as i32,
        )
    }
}

/// The next number that people like to read: 1, 2 or 5 and zeros.
fn round(number: f64) -> f64 {
    let zeros = 10_f64.powf(number.max(1e-3).log10().floor());
    let digit = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|digit| digit * zeros >= number);
    digit.unwrap_or(10.0) * zeros
}

fn axes(canvas: &mut Canvas, scale: &Scale) -> Outcome {
    let [left, _, right, bottom] = FRAME;
    for line in 0..=LINES as usize {
        let mib = line as f64 * scale.step;
        let y = scale.point(0.0, mib * MEBIBYTE).y;
        canvas.line([Point::new(left, y), Point::new(right, y)], (GREY, 1))?;
        let label = format!("{mib:.0} MiB");
        canvas.text(
            &label,
            Point::new(left - 8, y),
            Style::label(Alignment::Right),
        )?;
    }
    let step = round(scale.minutes / 12.0);
    for mark in 0..=(scale.minutes / step) as usize {
        let minutes = mark as f64 * step;
        let x = scale.point(60.0 * minutes, 0.0).x;
        canvas.line(
            [Point::new(x, bottom), Point::new(x, bottom + 6)],
            (BLACK, 1),
        )?;
        let label = format!("{minutes}");
        canvas.text(
            &label,
            Point::new(x, bottom + 18),
            Style::label(Alignment::Center),
        )?;
    }
    canvas.line(
        [Point::new(left, bottom), Point::new(right, bottom)],
        (BLACK, 1),
    )?;
    let below = Point::new(i32::midpoint(left, right), bottom + 46);
    canvas.text("minutes", below, Style::label(Alignment::Center))
}

fn words(canvas: &mut Canvas, log: &Log, growth: &Growth) -> Outcome {
    let counts = log.samples().last().map(|sample| sample.counts);
    let (requests, cycles) = counts.map_or((0, 0), |counts| (counts.requests, counts.cycles));
    let title = Style {
        font: &FONT_10X20,
        ..Style::label(Alignment::Left)
    };
    let left = FRAME[0];
    canvas.text(
        "Memory of the service under embedding and reranking",
        Point::new(left, 22),
        title,
    )?;
    let hourly = [
        growth.hourly.middle,
        growth.hourly.least,
        growth.hourly.most,
    ];
    let [middle, least, most] = hourly.map(|slope| format!("{:+.1}", slope / MEBIBYTE));
    let facts = format!(
        "{requests} requests, {cycles} changes of what is loaded; second half: {middle} MiB an \
         hour ({least} to {most})"
    );
    canvas.text(&facts, Point::new(left, 46), Style::label(Alignment::Left))?;
    let legend = [
        ("resident", RESIDENT, 0),
        ("anonymous", ANONYMOUS, 140),
        (
            "a model is launched and terminated, or sleeps and is woken",
            CYCLE,
            290,
        ),
    ];
    for (name, colour, right) in legend {
        let at = Point::new(left + right, 70);
        Rectangle::new(at - Point::new(0, 6), Size::new(20, 12))
            .into_styled(PrimitiveStyle::with_fill(colour))
            .draw(canvas)?;
        canvas.text(name, at + Point::new(28, 0), Style::label(Alignment::Left))?;
    }
    Ok(())
}

/// How a text is set; its position is the middle of its height.
#[derive(Clone, Copy)]
struct Style {
    font: &'static MonoFont<'static>,
    alignment: Alignment,
}

impl Style {
    fn label(alignment: Alignment) -> Self {
        Self {
            font: &FONT_9X15,
            alignment,
        }
    }
}

/// Pixels, three bytes each, row by row.
struct Canvas(Vec<u8>);

impl Canvas {
    fn new() -> Self {
        let white = [WHITE.r(), WHITE.g(), WHITE.b()];
        Self(white.repeat((WIDTH * HEIGHT) as usize))
    }

    fn line(&mut self, [from, to]: [Point; 2], (colour, width): (Rgb888, u32)) -> Outcome {
        let line = Line::new(from, to);
        let style = PrimitiveStyle::with_stroke(colour, width);
        Ok(line.into_styled(style).draw(self)?)
    }

    fn text(&mut self, text: &str, at: Point, style: Style) -> Outcome {
        let letters = MonoTextStyle::new(style.font, BLACK);
        let place = TextStyleBuilder::new()
            .alignment(style.alignment)
            .baseline(Baseline::Middle)
            .build();
        Text::with_text_style(text, at, letters, place).draw(self)?;
        Ok(())
    }

    fn write(&self, path: &Path) -> Outcome {
        let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), WIDTH, HEIGHT);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.0)?;
        Ok(writer.finish()?)
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(WIDTH, HEIGHT)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Self::Error> {
        let inside = self.bounding_box();
        for Pixel(at, colour) in pixels {
            if inside.contains(at) {
                let first = 3 * (at.y as usize * WIDTH as usize + at.x as usize);
                let bytes = [colour.r(), colour.g(), colour.b()];
                self.0[first..first + 3].copy_from_slice(&bytes);
            }
        }
        Ok(())
    }
}
