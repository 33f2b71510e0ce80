'use strict';
// Pointing at a patch shows it in every map of its image, and what it went together with.
for (const section of document.querySelectorAll('section[data-columns]')) {
  const columns = +section.dataset.columns, rows = +section.dataset.rows;
  const groups = [...section.querySelectorAll('g[data-p]')].map(g => [g, new Set(g.dataset.p.split(' ').map(Number))]);
  const marks = [...section.querySelectorAll('.here')];
  const show = patch => {
    groups.forEach(([g, patches]) => g.classList.toggle('on', patches.has(patch)));
    marks.forEach(mark => {
      mark.setAttribute('visibility', patch < 0 ? 'hidden' : 'visible');
      mark.setAttribute('x', patch % columns);
      mark.setAttribute('y', Math.floor(patch / columns));
    });
  };
  for (const map of section.querySelectorAll('svg.map')) {
    map.onpointermove = event => {
      const box = map.getBoundingClientRect();
      const at = (where, from, size, count) => Math.min(count - 1, Math.max(0, Math.floor((where - from) / size * count)));
      show(at(event.clientY, box.top, box.height, rows) * columns + at(event.clientX, box.left, box.width, columns));
    };
    map.onpointerleave = () => show(-1);
  }
}
