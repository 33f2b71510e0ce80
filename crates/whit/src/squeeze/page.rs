//! One page that shows which words of a text went.

use std::fmt::Write;

use super::Squeezed;
use crate::measure::write::escape;

/// A page that needs nothing but itself: `texts` with the words that went struck out, under their names.
pub fn page(title: &str, texts: &[(&str, &str, &Squeezed)]) -> String {
    let (before, after) =
        texts.iter().fold((0, 0), |(before, after), (_, _, one)| (before + one.original, after + one.tokens));
    let percent = 100.0 * after as f64 / before.max(1) as f64;
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{0}</title><style>{STYLE}</style><main><header><h1>{0}</h1><dl>{1}{2}{3}</dl>\
         <div class=bar role=img aria-label=\"{percent:.0} percent kept\"><i style=\"width:{percent:.1}%\"></i></div>\
         {LEGEND}</header>",
        escape(title),
        figure("tokens before", before.to_string()),
        figure("tokens after", after.to_string()),
        figure("kept", format!("{percent:.1} %")),
    );
    for (name, source, squeezed) in texts {
        let heading = if texts.len() > 1 { format!("<h2>{}</h2>", escape(name)) } else { String::new() };
        let left = escape(&squeezed.text);
        let _ = write!(page, "<section>{heading}<p class=text>{}</p>", marked(source, squeezed));
        let _ = write!(
            page,
            "<details><summary>What is left</summary><p class=text>{left}</p></details></section>"
        );
    }
    page + SCRIPT + "</main></html>\n"
}

fn figure(name: &str, value: String) -> String {
    format!("<div><dt>{name}</dt><dd>{value}</dd></div>")
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
:root{--ground:#fbfaf7;--ink:#1d1f21;--soft:#6b6f76;--line:#e2dfd8;--keep:46 125 80;--drop:190 60 40;--force:40 90 180}\
@media(prefers-color-scheme:dark){:root{--ground:#16181b;--ink:#e8e6e1;--soft:#9a9fa6;--line:#2c3036;--keep:110 200 150;\
--drop:240 130 110;--force:130 175 255}}\
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\
main{max-width:54rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}h1{font-size:1.5rem;font-weight:650;margin:0 0 1rem;\
overflow-wrap:anywhere}section{margin-top:2rem}h2{font-size:.8rem;font-weight:600;letter-spacing:.04em;color:var(--soft);margin:0 0 .5rem}\
dl{display:flex;gap:2.5rem;margin:0 0 1rem;flex-wrap:wrap}dt{font-size:.8rem;color:var(--soft)}dd{margin:0;\
font-size:1.6rem;font-weight:600;font-variant-numeric:tabular-nums}\
.bar{height:.5rem;border-radius:1rem;background:rgb(var(--drop)/.25);overflow:hidden}.bar i{display:block;height:100%;\
background:rgb(var(--keep))}.legend{display:flex;gap:.6rem 1rem;flex-wrap:wrap;align-items:center;font-size:.85rem;\
color:var(--soft);margin:.9rem 0 0}.legend label{margin-left:auto;cursor:pointer}\
.text{white-space:pre-wrap;overflow-wrap:anywhere;font:1.02rem/1.9 Charter,Georgia,serif;margin:0}\
b,s{font-weight:inherit;border-radius:.2rem;padding:.08em .1em;margin:0 -.1em}\
b{background:rgb(var(--keep)/calc(.02*var(--p)))}\
s{color:var(--soft);text-decoration-thickness:1px;text-decoration-color:rgb(var(--drop)/.8);\
background:rgb(var(--drop)/calc(.014*var(--p)))}\
b.forced{background:rgb(var(--force)/.22);box-shadow:0 1px rgb(var(--force))}\
section>.text{border-left:3px solid var(--line);padding-left:1.1rem}\
.only section>.text s{display:none}details{margin:.9rem 0 0;color:var(--soft)}summary{cursor:pointer;font-size:.85rem}\
details .text{color:var(--ink);margin-top:.5rem}";

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
