'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const find = id => document.getElementById(id);
const tip = find('tip');
const LEFT = 62, BELOW = 18;

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const channels = name => colour('--' + name).split(' ').map(Number);
const blend = parts => `rgb(${[0, 1, 2].map(i => Math.round(parts.reduce((sum, [c, w]) => sum + c[i] * w, 0))).join(' ')})`;
function ground() {
  const hex = colour('--card').slice(1);
  const full = hex.length === 3 ? [...hex].map(c => c + c).join('') : hex;
  return [0, 2, 4].map(at => parseInt(full.slice(at, at + 2), 16));
}

// --- tokens by position -----------------------------------------------------------------------

const token = position => data.texts[position < data.head ? position : position - data.skipped];
const known = position => position < data.head || position >= data.head + data.skipped;
const quoted = position => known(position) ? `“${token(position).replaceAll('\n', '⏎')}”` : 'token';
const place = position => `${quoted(position)}, position ${position}${position >= data.prompt ? ' (answer)' : ''}`;
const range = (bin, width) => width === 1 ? place(bin) : `positions ${bin * width} to ${(bin + 1) * width - 1}`;

function say(event, words) {
  tip.textContent = words;
  tip.hidden = !words;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.min(event.clientX + 14, innerWidth - box.width - 8) + 'px';
  tip.style.top = Math.min(event.clientY + 16, innerHeight - box.height - 8) + 'px';
}

/// A canvas that draws itself anew when its width or the theme changes.
function canvas(node, height, draw) {
  const paint = () => {
    const width = node.clientWidth, ratio = devicePixelRatio || 1;
    const high = height();
    node.style.height = high + 'px';
    node.width = width * ratio;
    node.height = high * ratio;
    const pen = node.getContext('2d');
    pen.scale(ratio, ratio);
    pen.font = '11px system-ui,sans-serif';
    draw(pen, width, high);
  };
  new ResizeObserver(paint).observe(node);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paint);
  return paint;
}

function scale(pen, width, base, count, per, first = 0) {
  pen.fillStyle = colour('--soft');
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000];
  const total = count * per, step = steps.find(step => total / step <= 12) || total;
  for (let at = 0; at < total; at += step) {
    pen.fillText(at + first, LEFT + at / total * (width - LEFT), base + 13);
  }
}

// --- what the cache kept ----------------------------------------------------------------------

function rows() {
  const { width: per, layers } = data.rows;
  const bins = layers[0][0].k.length;
  const open = new Set();
  let picked = null, hover = null;
  const average = heads => {
    const mean = name => bin => heads.reduce((sum, head) => sum + (+head[name][bin]) / 9, 0) / heads.length;
    return { kept: mean('k'), merged: mean('m'), heads };
  };
  const all = average(layers.flat());
  const lines = () => layers.flatMap((heads, layer) => {
    const own = { name: `layer ${layer}`, layer, high: 15, ...average(heads) };
    const parts = heads.map((head, index) => ({ name: `head ${index}`, layer, head: index, high: 11, ...average([head]) }));
    return [own, ...(open.has(layer) ? parts : [])];
  });
  const shown = () => picked ? lines().find(line => line.layer === picked.layer && line.head === picked.head) || all : all;
  const node = find('map'), text = find('kept');
  const spans = new Map([...text.querySelectorAll('i')].map(span => [+span.dataset.p, span]));

  const paint = canvas(node, () => lines().reduce((sum, line) => sum + line.high, BELOW), (pen, width, high) => {
    const [keep, merge, drop, base] = [...['keep', 'merge', 'drop'].map(channels), ground()];
    const cell = (width - LEFT) / bins;
    let top = 0;
    for (const line of lines()) {
      const chosen = picked && line.layer === picked.layer && line.head === picked.head;
      pen.fillStyle = chosen ? colour('--ink') : colour('--soft');
      pen.fillText((line.head === undefined ? (open.has(line.layer) ? '▾ ' : '▸ ') : '    ') + line.name, 0, top + line.high - 4);
      for (let bin = 0; bin < bins; bin++) {
        const [k, m] = [line.kept(bin), line.merged(bin)], gone = 1 - k - m;
        pen.fillStyle = blend([[keep, k * .85], [base, k * .15 + gone * .84], [merge, m], [drop, gone * .16]]);
        pen.fillRect(LEFT + bin * cell, top, Math.max(cell - (cell > 5 ? 1 : 0), .7), line.high - 2);
      }
      top += line.high;
    }
    if (data.prompt / per < bins) {
      pen.fillStyle = `rgb(${colour('--force')})`;
      pen.fillRect(LEFT + data.prompt / per * cell - 1, 0, 1.5, top);
    }
    if (hover !== null) {
      pen.strokeStyle = `rgb(${colour('--force')})`;
      pen.strokeRect(LEFT + hover * cell - .5, 0, cell + 1, top - 1);
    }
    scale(pen, width, top, bins, per);
  });

  const colours = () => {
    const line = shown();
    for (const [position, span] of spans) {
      const bin = Math.floor(position / per);
      if (bin >= bins) continue;
      const [k, m] = [line.kept(bin), line.merged(bin)];
      const [name, strength] = m > k && m > 1 - k - m ? ['merge', m] : k >= .005 ? ['keep', k] : ['drop', .35];
      span.style.background = `rgb(var(--${name})/${(.4 * strength).toFixed(3)})`;
      span.style.color = k + m < .005 ? 'var(--soft)' : '';
    }
    find('which').textContent = picked ? `layer ${picked.layer}` + (picked.head === undefined ? ', mean of its heads' : `, head ${picked.head}`) : 'the mean of all layers and heads';
  };

  const fate = (line, bin) => {
    const count = line.heads.length, whole = 9 * count;
    const sum = name => line.heads.reduce((sum, head) => sum + +head[name][bin], 0);
    if (count > 1 || per > 1) {
      const percent = share => `${Math.round(100 * share / whole)} %`;
      return `kept ${percent(sum('k'))}, merged ${percent(sum('m'))}, evicted ${percent(whole - sum('k') - sum('m'))}` + (count > 1 ? ` of ${count} heads` : '');
    }
    const gone = (line.heads[0].g || []).find(([position]) => position === bin);
    if (!gone) return sum('k') ? 'kept' : sum('m') ? 'merged' : 'evicted';
    const when = gone[1] === 0 ? 'after the prompt' : `after step ${gone[1]}`;
    return gone[2] ? `merged into ${place(gone[2] - 1)}, ${when}` : `evicted ${when}`;
  };
  const at = event => {
    const box = node.getBoundingClientRect();
    const bin = Math.floor((event.clientX - box.left - LEFT) / (box.width - LEFT) * bins);
    let top = event.clientY - box.top;
    const line = lines().find(line => (top -= line.high) < 0);
    return { line, bin: bin >= 0 && bin < bins ? bin : null };
  };
  const point = bin => {
    spans.forEach((span, position) => span.classList.toggle('on', bin !== null && Math.floor(position / per) === bin));
    if (bin !== hover) { hover = bin; paint(); }
  };
  node.onmousemove = event => {
    const { line, bin } = at(event);
    point(bin);
    say(event, line && bin !== null ? `${range(bin, per)}\n${line.head === undefined ? '' : `layer ${line.layer}, `}${line.name}: ${fate(line, bin)}` : line ? 'click to open or close' : '');
  };
  node.onmouseleave = event => { point(null); say(event, ''); };
  node.onclick = event => {
    const { line } = at(event);
    if (!line) return;
    if (line.head === undefined) { open.has(line.layer) ? open.delete(line.layer) : open.add(line.layer); }
    picked = { layer: line.layer, head: line.head };
    paint(); colours();
  };
  find('all').onclick = () => { picked = null; paint(); colours(); };
  find('heads').onclick = () => {
    const every = open.size === layers.length;
    layers.forEach((_, layer) => every ? open.delete(layer) : open.add(layer));
    paint();
  };
  text.onmousemove = event => {
    const span = event.target.closest('i');
    if (!span) return;
    const bin = Math.floor(+span.dataset.p / per);
    point(bin < bins ? bin : null);
    say(event, bin < bins ? `${place(+span.dataset.p)}\n${fate(shown(), bin)}` : 'the newest token, not cached yet');
  };
  text.onmouseleave = node.onmouseleave;
  colours();
}

// --- which keys were read ---------------------------------------------------------------------

function reads() {
  const { width: per, steps, positions, layers } = data.reads;
  const bins = Math.ceil(positions[positions.length - 1] / per);
  for (const node of document.querySelectorAll('canvas[data-layer]')) {
    const layer = layers[+node.dataset.layer];
    const line = Math.max(2, Math.min(8, Math.floor(120 / steps.length)));
    canvas(node, () => steps.length * line + BELOW, (pen, width) => {
      const [force, base] = [channels('force'), ground()];
      const cell = (width - LEFT) / bins;
      steps.forEach((_, row) => {
        const end = Math.ceil(positions[row] / per), seen = layer[row];
        for (let bin = 0; bin < end; bin++) {
          const share = seen === 1 ? 1 : seen === 0 ? 1 : +seen[bin] / 9;
          pen.fillStyle = blend([[force, share * .9 + .05], [base, .95 - share * .9]]);
          pen.fillRect(LEFT + bin * cell, row * line, Math.max(cell, .8), Math.max(line - (line > 3 ? 1 : 0), 1));
        }
      });
      pen.fillStyle = colour('--soft');
      pen.fillText(`step ${steps[0]}`, 0, 9);
      if (steps.length * line > 24) pen.fillText(`step ${steps[steps.length - 1]}`, 0, steps.length * line - 1);
      if (data.prompt / per < bins) {
        pen.fillStyle = `rgb(${colour('--drop')})`;
        pen.fillRect(LEFT + data.prompt / per * cell - 1, 0, 1, steps.length * line);
      }
      scale(pen, width, steps.length * line, bins, per);
    });
    node.onmousemove = event => {
      const box = node.getBoundingClientRect();
      const bin = Math.floor((event.clientX - box.left - LEFT) / (box.width - LEFT) * bins);
      const row = Math.floor((event.clientY - box.top) / line);
      if (bin < 0 || row >= steps.length || bin * per >= positions[row]) return say(event, '');
      const seen = layer[row];
      const words = seen === 0 ? 'all keys were read' : seen === 1 ? 'all keys were read, to choose those of the next layers'
        : +seen[bin] === 0 ? 'not read' : `read by about ${Math.round(100 * +seen[bin] / 9)} % of the heads`;
      say(event, `step ${steps[row]}, ${range(bin, per)}\n${words}`);
    };
    node.onmouseleave = event => say(event, '');
  }
}

// --- what was drafted and accepted ------------------------------------------------------------

function steps() {
  const text = find('answer');
  const words = index => {
    const step = data.steps[index];
    const lines = [index === 0 ? 'The prompt gave the first token.' : `Step ${index}`];
    if (step.d.length) {
      const drafted = step.d.map(one => `“${one.replaceAll('\n', '⏎')}”`).join(' ') + (step.more ? ` and ${step.more} more` : '');
      lines.push(`drafted ${step.d.length + step.more}, up to ${step.deep} in a row: ${drafted}`, `accepted ${step.a}, and one token of the model's own`);
    } else if (index > 0 && data.drafts) lines.push('nothing was drafted');
    if (data.depths) lines.push(`${step.l} of ${data.layers} layers`);
    return lines.join('\n');
  };
  const mark = index => text.querySelectorAll('i').forEach(span => span.classList.toggle('same', +span.dataset.s === index));
  text.onmousemove = event => {
    const span = event.target.closest('i');
    if (!span) return say(event, '');
    mark(+span.dataset.s);
    say(event, words(+span.dataset.s));
  };
  text.onmouseleave = event => { mark(-1); say(event, ''); };
  const bars = (node, most, bar) => {
    const count = data.steps.length - 1;
    canvas(node, () => 72, (pen, width) => {
      const cell = (width - LEFT) / Math.max(count, 1);
      for (let index = 1; index <= count; index++) {
        for (const [value, name, alpha] of bar(data.steps[index])) {
          pen.fillStyle = `rgb(${colour('--' + name)} / ${alpha})`;
          pen.fillRect(LEFT + (index - 1) * cell, 54 - 50 * value / most, Math.max(cell - (cell > 4 ? 1 : 0), .8), 50 * value / most);
        }
      }
      pen.fillStyle = colour('--soft');
      pen.fillText(most, 0, 12);
      pen.fillText('0', 0, 54);
      scale(pen, width, 54, count, 1, 1);
    });
    node.onmousemove = event => {
      const box = node.getBoundingClientRect();
      const index = 1 + Math.floor((event.clientX - box.left - LEFT) / (box.width - LEFT) * count);
      const inside = index >= 1 && index <= count;
      mark(inside ? index : -1);
      say(event, inside ? words(index) : '');
    };
    node.onmouseleave = text.onmouseleave;
  };
  const most = Math.max(1, ...data.steps.map(step => step.deep + 1));
  if (find('accepted')) bars(find('accepted'), most, step => [[step.deep + 1, 'force', .16], [step.a + 1, 'force', .45], [step.a, 'keep', .9]]);
  if (find('depths')) bars(find('depths'), data.layers, step => [[data.layers, 'force', .12], [step.l, 'force', .7]]);
}

if (data.rows) rows();
if (data.reads) reads();
steps();
