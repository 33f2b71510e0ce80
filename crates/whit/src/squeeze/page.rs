//! One page that shows which words of a text went.

use std::fmt::Write;

use super::Squeezed;
use crate::measure::sheet;
use crate::measure::write::escape;

/// A page that needs nothing but itself: `texts` with the words that went struck out, under their names.
pub fn page(title: &str, texts: &[(&str, &str, &Squeezed)]) -> String {
    let (before, after) =
        texts.iter().fold((0, 0), |(before, after), (_, _, one)| (before + one.original, after + one.tokens));
    let percent = 100.0 * after as f64 / before.max(1) as f64;
    let figures = [
        ("tokens before", before.to_string()),
        ("tokens after", after.to_string()),
        ("kept", format!("{percent:.1} %")),
    ];
    let mut body = format!(
        "<header>{}{}<div class=bar role=img aria-label=\"{percent:.0} percent kept\"><i style=\"width:{percent:.1}%\">\
         </i></div>{LEGEND}</header>",
        sheet::heading(title),
        sheet::figures(figures),
    );
    for (name, source, squeezed) in texts {
        let heading = if texts.len() > 1 { format!("<h2>{}</h2>", escape(name)) } else { String::new() };
        let left = escape(&squeezed.text);
        let _ = write!(body, "<section>{heading}<p class=text>{}</p>", marked(source, squeezed));
        let _ = write!(
            body,
            "<details><summary>What is left</summary><p class=text>{left}</p></details></section>"
        );
    }
    sheet::page(title, STYLE, &(body + SCRIPT))
}

/// The source with every word in a span of its own; the surer the model, the stronger the colour.
fn marked(source: &str, squeezed: &Squeezed) -> String {
    let mut text = String::with_capacity(source.len() * 4);
    let mut end = 0;
    for (word, &kept) in squeezed.words.iter().zip(&squeezed.kept) {
        text += &escape(source.get(end..word.bytes.start).unwrap_or_default());
        let strength = (10.0 * if kept { word.probability } else { 1.0 - word.probability }).round();
        let forced = if word.forced.is_some() { " class=forced" } else { "" };
        let tag = if kept { "b" } else { "s" };
        let own = escape(&source[word.bytes.clone()]);
        let _ = write!(
            text,
            "<{tag}{forced} style=--p:{strength} title=\"{:.3}\">{own}</{tag}>",
            word.probability
        );
        end = word.bytes.end;
    }
    text + &escape(source.get(end..).unwrap_or_default())
}

const LEGEND: &str = "<p class=legend><b style=--p:9>kept</b> <s style=--p:9>dropped</s> <b class=forced style=--p:10>forced</b> \
<span>Stronger is surer; point at a word for its probability.</span>\
<label><input type=checkbox id=only> hide what was dropped</label></p>";

/// Works without scripts too: then the box does nothing.
const SCRIPT: &str = "<script>document.getElementById('only').onchange=e=>document.body.classList.toggle('only',e.target.checked)</script>";

const STYLE: &str = "\
main{max-width:54rem}section{margin-top:2rem}h2{font-size:.8rem;letter-spacing:.04em;color:var(--soft);margin:0 0 .5rem}\
.legend label{margin-left:auto;cursor:pointer}\
.text{white-space:pre-wrap;overflow-wrap:anywhere;font:1.02rem/1.9 Charter,Georgia,serif;margin:0;max-width:none}\
b,s{font-weight:inherit;border-radius:.2rem;padding:.08em .1em;margin:0 -.1em}\
b{background:rgb(var(--keep)/calc(.02*var(--p)))}\
s{color:var(--soft);text-decoration-thickness:1px;text-decoration-color:rgb(var(--drop)/.8);\
background:rgb(var(--drop)/calc(.014*var(--p)))}\
b.forced{background:rgb(var(--force)/.22);box-shadow:0 1px rgb(var(--force))}\
section>.text{border-left:3px solid var(--line);padding-left:1.1rem}\
.only section>.text s{display:none}details .text{color:var(--ink);margin-top:.5rem}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::squeeze::Word;

    #[test]
    fn every_word_is_shown_and_nothing_of_the_text_becomes_markup() {
        let source = "<b>Tom</b> & \"um\" Jerry";
        let bytes = [3..6, 14..16, 18..23];
        let words = bytes.map(|bytes| Word { bytes, probability: 0.25, forced: None, chunk: 0 }).to_vec();
        let kept = vec![true, false, true];
        let squeezed = Squeezed { text: "Tom & Jerry".into(), words, kept, original: 6, tokens: 3 };
        let page = page("a < b", &[("x.txt", source, &squeezed)]);
        assert!(
            page.contains("&lt;b&gt;<b style=--p:3 title=\"0.250\">Tom</b>&lt;/b&gt; &amp; &quot;"),
            "{page}"
        );
        assert!(page.contains("<s style=--p:8 title=\"0.250\">um</s>&quot;"), "{page}");
        assert!(page.contains("a &lt; b") && page.contains("50.0 %") && !page.contains("http"));
    }
}
