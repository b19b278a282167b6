// What is out of place: text that is cut without a sign of it, or stands out of its box; controls
// that lie over each other.
() => {
  const wrong = [];
  const name = (one) => `${one.tagName.toLowerCase()}.${one.className.baseVal ?? one.className} "${(one.textContent || '').trim().slice(0, 40)}"`;
  if (document.documentElement.scrollWidth > innerWidth) wrong.push(`the page is ${document.documentElement.scrollWidth} wide`);
  // An ellipsis of an ancestor shows that there is more.
  const cut = (one) => { for (let box = one.parentElement; box; box = box.parentElement) if (getComputedStyle(box).textOverflow === 'ellipsis' && box.getBoundingClientRect().right <= innerWidth + 1) return true; return false; };
  const seen = [...document.querySelectorAll('main *, dialog[open] *, header *, footer *')].filter((one) => one.checkVisibility() && !one.closest('.sr, svg'));
  for (const one of seen) {
    const style = getComputedStyle(one);
    const box = one.getBoundingClientRect();
    if (box.width <= 1 || box.height <= 1) continue;
    if (one.scrollWidth > one.clientWidth + 1 && style.overflowX === 'visible' && style.display !== 'inline') wrong.push(`wider than its box: ${name(one)}`);
    if (style.overflowX === 'hidden' && one.scrollWidth > one.clientWidth + 1 && style.textOverflow !== 'ellipsis' && one.children.length === 0) wrong.push(`cut off: ${name(one)}`);
    if (['hidden', 'clip'].includes(style.overflowY) && one.scrollHeight > one.clientHeight + 1 && one.matches('.stage')) wrong.push(`cut off below: ${name(one)}`);
    if (box.right > innerWidth + 1 && !one.closest('.scroll, pre, .prose table') && !cut(one)) wrong.push(`beyond the edge: ${name(one)}`);
  }
  const controls = seen.filter((one) => one.matches('button, a.button, input, select, summary') && !one.closest('.viewer, .send, .line, .top, .selection, .away, .drop-list, .machines-pick, .acts, .tile'));
  for (const [index, one] of controls.entries()) for (const other of controls.slice(index + 1)) {
    if (one.contains(other) || other.contains(one)) continue;
    const a = one.getBoundingClientRect(), b = other.getBoundingClientRect();
    const over = Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
    if (over && one.closest('dialog') === other.closest('dialog')) wrong.push(`lies over: ${name(one)} and ${name(other)}`);
  }
  return [...new Set(wrong)];
}
