//! The page, for people who never saw such a thing.

use std::fmt::Write;

use super::maps::{Cells, Group, shades};
use super::{Trace, Traced};
use crate::load::image::ImageError;
use crate::measure::sheet;
use crate::measure::write::escape;
use crate::methods::Plan;
use crate::methods::reducers::Shares;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page of a run with the methods of `plan`.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn page(trace: &Trace, plan: &Plan) -> Result<String, ImageError> {
    let title = "What the methods did to the pictures";
    let body = format!(
        "{}<p class=setting>{}</p>{}{}",
        sheet::heading(title),
        escape(&trace.model),
        sheet::methods(plan),
        sections(trace, plan)?
    );
    Ok(sheet::page(&format!("{title}: {}", trace.model), "main{max-width:72rem}", &body))
}

/// What the page says of the pictures, as a part of any page.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn sections(trace: &Trace, plan: &Plan) -> Result<String, ImageError> {
    let sections = (0..trace.images.len()).map(|number| section(trace, number));
    let sections = sections.collect::<Result<String, _>>()?;
    Ok(format!(
        "<style>{STYLE}</style><div class=pictures>{}{sections}</div><script>{SCRIPT}</script>",
        words(plan)
    ))
}

fn words(plan: &Plan) -> String {
    let first = "<p>A vision transformer cuts a picture into square patches. Each becomes a token, and all of them, with \
                 the class token that will name the picture, go through the model's blocks one after the other. The \
                 fewer tokens there are, the less there is to compute.</p>";
    if plan.is_plain() {
        return first.to_owned();
    }
    format!(
        "{first}<p>The maps follow the patches from block to block. A patch that looks as it is has a token of its own. \
         Patches under one colour, with one outline, share a token; a patch may be spread over several, and then stands \
         with the token that holds most of it. A grey patch was dropped: later blocks never see it. Point at a patch to \
         find it in every map.</p><p class=legend><b style=\"--c:linear-gradient(135deg,#7a9,#357)\">a token of its own\
         </b><b style=\"--c:rgb(240 140 40)\">in one token with others</b><b style=\"--c:rgb(190 190 190)\">dropped</b></p>"
    )
}

/// What the parts of a section are made from.
struct View<'a> {
    trace: &'a Trace,
    image: &'a Traced,
    number: usize,
    grid: [usize; 2],
}

fn section(trace: &Trace, number: usize) -> Result<String, ImageError> {
    let image = &trace.images[number];
    let view = View { trace, image, number, grid: trace.grid(image) };
    let [rows, columns] = view.grid;
    Ok(format!(
        "<section data-rows={rows} data-columns={columns}><h2>{}</h2>{}{}{}{}{}{}</section>",
        escape(&image.name),
        view.figures(),
        view.picture()?,
        view.maps(),
        view.blocks(),
        view.classes(),
        view.attention()
    ))
}

impl View<'_> {
    fn figures(&self) -> String {
        let history = &self.image.history;
        let mut figures = Vec::new();
        if let Some(best) = self.image.classes[1].first() {
            figures.push(("class", format!("{}, {:.1} %", best.label, 100.0 * best.probability)));
        }
        if !history.steps.is_empty() {
            let left = history.left.last().copied().unwrap_or(history.tokens);
            figures.push(("tokens at the end", format!("{left} of {}", history.tokens)));
            figures.push((
                "of the plain multiplications",
                format!("{:.1} %", 100.0 * self.trace.cost(self.image)),
            ));
            if !self.image.classes[0].is_empty() {
                let same = if self.image.agrees() { "the same" } else { "another" };
                figures.push(("class of the plain model", same.to_owned()));
            }
        }
        sheet::figures(figures)
    }

    /// The picture itself, once; the maps lie over it.
    fn picture(&self) -> Result<String, ImageError> {
        let [rows, columns] = self.grid;
        let png = self.image.picture.png()?;
        Ok(format!(
            "<svg width=0 height=0 style=\"position:absolute\"><defs><image id=p{} width={columns} height={rows} \
             preserveAspectRatio=none href=\"data:image/png;base64,{}\"/></defs></svg>",
            self.number,
            base64(&png)
        ))
    }

    /// A map with something over the picture.
    fn map(&self, over: &str) -> String {
        let [rows, columns] = self.grid;
        format!(
            "<svg class=map viewBox=\"0 0 {columns} {rows}\"><use href=\"#p{}\"/>{over}\
             <rect class=here width=1 height=1 visibility=hidden /></svg>",
            self.number
        )
    }

    fn maps(&self) -> String {
        let mut text = String::from("<div class=panels>");
        for shares in self.image.stages() {
            let cells = Cells::of(&shares, self.grid);
            let map = self.map(&self.over(&cells));
            let _ =
                write!(text, "<figure>{map}<figcaption>{}</figcaption></figure>", caption(&shares, &cells));
        }
        text + "</div>"
    }

    fn over(&self, cells: &Cells) -> String {
        let mut text = String::new();
        if !cells.dropped.is_empty() {
            let _ = write!(
                text,
                "<path class=gone d=\"{}\"><title>dropped</title></path>",
                self.area(&cells.dropped)
            );
        }
        for group in &cells.groups {
            text += &self.group(cells, group);
        }
        text
    }

    fn group(&self, cells: &Cells, group: &Group) -> String {
        let [red, green, blue] = group.colour;
        let colour = format!("rgb({red} {green} {blue})");
        let numbers: Vec<String> = group.patches.iter().map(ToString::to_string).collect();
        let share = match group.share {
            share if share > 0.995 => String::new(),
            share => format!(", each with at least {:.0} % of itself", 100.0 * share),
        };
        let edge = |(x, y, down): (usize, usize, bool)| format!("M{x} {y}{}1", if down { 'v' } else { 'h' });
        format!(
            "<g data-p=\"{}\"><title>{} patches in one token{share}</title><path class=area fill=\"{colour}\" \
             fill-opacity=.42 d=\"{}\"/><path class=edge fill=none stroke=\"{colour}\" d=\"{}\"/></g>",
            numbers.join(" "),
            group.patches.len(),
            self.area(&group.patches),
            cells.outline(group).into_iter().map(edge).collect::<String>()
        )
    }

    fn area(&self, patches: &[usize]) -> String {
        let columns = self.grid[1].max(1);
        patches.iter().map(|patch| format!("M{} {}h1v1h-1z", patch % columns, patch / columns)).collect()
    }

    /// A bar for each block: how many of the tokens leave its attention.
    fn blocks(&self) -> String {
        let history = &self.image.history;
        if history.steps.is_empty() {
            return String::new();
        }
        const HIGH: f64 = 64.0;
        let wide = 600.0 / history.left.len().max(1) as f64;
        let mut svg = format!(
            "<h3>Tokens left behind each block</h3><svg class=blocks viewBox=\"0 0 600 {}\" role=img>",
            HIGH + 34.0
        );
        for (block, &left) in history.left.iter().enumerate() {
            let high = HIGH * left as f64 / history.tokens.max(1) as f64;
            let (x, bar, middle) = (block as f64 * wide, wide * 0.8, (block as f64 + 0.4) * wide);
            let _ = write!(
                svg,
                "<rect class=all x={x:.1} y=16 width={bar:.1} height={HIGH} rx=2 /><rect class=in x={x:.1} y={:.1} \
                 width={bar:.1} height={high:.1} rx=2 /><text class=middle x={middle:.1} y={:.1}>{left}</text>\
                 <text class=middle x={middle:.1} y={}>{}</text>",
                16.0 + HIGH - high,
                12.0 + HIGH - high,
                HIGH + 31.0,
                block + 1
            );
        }
        svg + "</svg>"
    }

    fn classes(&self) -> String {
        let [plain, with] = &self.image.classes;
        if with.is_empty() {
            return String::new();
        }
        let reduced = !self.image.history.steps.is_empty();
        let head = if reduced { "<th>plain</th><th>with the methods</th>" } else { "<th>probability</th>" };
        let cell = |probability: Option<f32>| match probability {
            None => "<td>–</td>".to_owned(),
            Some(one) => format!(
                "<td class=share>{:.1} %<i style=\"width:{:.1}%\"></i></td>",
                100.0 * one,
                90.0 * one.clamp(0.0, 1.0)
            ),
        };
        let mut text = format!("<h3>What the model takes it for</h3><table><tr><th>class</th>{head}</tr>");
        for guess in with {
            let before = plain.iter().find(|one| one.label == guess.label).map(|one| one.probability);
            let before = if reduced { cell(before) } else { String::new() };
            let (label, now) = (escape(&guess.label), cell(Some(guess.probability)));
            let _ = write!(text, "<tr><td>{label}</td>{before}{now}</tr>");
        }
        text + "</table>"
    }

    fn attention(&self) -> String {
        let maps = self.image.history.attention_of_patches();
        let Some((mean, heads)) = maps.split_first() else { return String::new() };
        let head = |(number, values): (usize, &Vec<f32>)| {
            format!(
                "<figure>{}<figcaption>head {}</figcaption></figure>",
                self.map(&self.dark(values)),
                number + 1
            )
        };
        format!(
            "<h3>Where the class token looked in the last block</h3><p class=note>The brighter a patch, the more of the \
             class token's attention it got, together with what shares its token.</p><div class=panels><figure>{}\
             <figcaption><b>mean of the heads</b></figcaption></figure></div><details><summary>each of the {} heads\
             </summary><div class=\"panels small\">{}</div></details>",
            self.map(&self.dark(mean)),
            heads.len(),
            heads.iter().enumerate().map(head).collect::<String>()
        )
    }

    fn dark(&self, values: &[f32]) -> String {
        let columns = self.grid[1].max(1);
        let cell = |(patch, shade): (usize, f32)| {
            format!(
                "<rect x={} y={} width=1 height=1 fill-opacity={shade:.2} />",
                patch % columns,
                patch / columns
            )
        };
        shades(values).into_iter().enumerate().map(cell).collect()
    }
}

fn caption(shares: &Shares, cells: &Cells) -> String {
    let patches = cells.grid[0] * cells.grid[1];
    let Some(layer) = shares.layer else {
        return format!("<b>as it enters</b><br>{} tokens, {patches} of them patches", shares.tokens);
    };
    let together: usize = cells.groups.iter().map(|group| group.patches.len()).sum();
    let mut parts = vec![format!("{} tokens", shares.tokens)];
    if !cells.groups.is_empty() {
        let (count, plural) = (cells.groups.len(), if cells.groups.len() == 1 { "" } else { "s" });
        parts.push(format!("{together} patches in {count} group{plural}"));
    }
    if !cells.dropped.is_empty() {
        parts.push(format!("{} dropped", cells.dropped.len()));
    }
    format!("<b>block {}</b><br>{}", layer + 1, parts.join(", "))
}

/// Bytes as text of 64 letters (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| three.get(at).copied().map_or(0, u32::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let letter = char::from(LETTERS[(bits >> (18 - 6 * at)) as usize & 63]);
            text.push(if at <= three.len() { letter } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_become_the_letters_of_the_standard() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(super::base64(bytes.as_bytes()), text);
        }
    }
}
