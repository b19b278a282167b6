// Morphs an element into new HTML: the nodes that stay keep their focus, selection and scroll position. The algorithm is
// that of htmx 4.0.1 (0BSD): nodes match by the ids in them, then by equality, then by tag.
// An element with data-keep stays as it is.

const SCAN = 10; // siblings with which a node is compared
// Attributes that scripts set: a morph neither sets nor removes them.
export const keptAttributes = new Set();

// Elements by id; null for an id that several have.
function byId(elements) {
  const unique = new Map();
  for (const one of elements) unique.set(one.id, unique.has(one.id) ? null : one);
  return unique;
}

function move(parent, node, before) {
  try {
    parent.moveBefore(node, before); // keeps the focus and what plays
  } catch {
    parent.insertBefore(node, before);
  }
}

function copyAttributes(node, fresh) {
  for (const { name, value } of fresh.attributes) {
    if (keptAttributes.has(name) || node.getAttribute(name) === value) continue;
    node.setAttribute(name, value);
    if (name === "value" && node.matches("input") && document.activeElement !== node)
      node.value = value;
  }
  for (const { name } of [...node.attributes])
    if (!fresh.hasAttribute(name) && !keptAttributes.has(name)) node.removeAttribute(name);
}

export function morph(target, html) {
  const { content } = Object.assign(document.createElement("template"), { innerHTML: html });
  const old = byId([target, ...target.querySelectorAll("[id]")]);
  // By element of both trees, the ids in it that both have.
  const ids = new Map();
  for (const [id, fresh] of byId(content.querySelectorAll("[id]"))) {
    if (!fresh || old.get(id)?.tagName !== fresh.tagName) continue;
    for (const element of [old.get(id), fresh])
      for (let up = element; up && up !== target.parentElement; up = up.parentElement)
        ids.set(up, (ids.get(up) ?? new Set()).add(id));
  }
  const isLater = new WeakSet(); // old nodes that equal a later new one
  // Has the nodes with ids that are removed, until a later place of them is known.
  const pantry = Object.assign(document.createElement("div"), { hidden: true });
  document.body.after(pantry);

  function comesLater(node, fresh) {
    let sibling = fresh.nextSibling;
    for (let i = 0; sibling && i < SCAN && !isLater.has(node); i++) {
      if (sibling instanceof Element && node.isEqualNode(sibling)) isLater.add(node);
      sibling = sibling.nextSibling;
    }
    return isLater.has(node);
  }

  function bestMatch(fresh, start, end) {
    if (fresh.nodeType === Node.TEXT_NODE) return start.nodeType === Node.TEXT_NODE ? start : null;
    const own = ids.get(fresh);
    if (!(fresh instanceof Element) || (fresh.id && !own)) return null;
    let sameTag = null;
    let displaced = 0;
    for (let node = start, i = 1; node && node !== end; node = node.nextSibling, i++) {
      const others = ids.get(node);
      if (node.tagName === fresh.tagName && (!node.id || node.id === fresh.id)) {
        if (others && own && [...others].some((id) => own.has(id))) return node;
        if (!others && i <= SCAN && node.isEqualNode(fresh)) return node;
        if (!others) sameTag ??= node;
      }
      displaced += others?.size ?? 0;
      if (displaced > (own?.size ?? 0) || (i >= SCAN && !own)) break;
      // Nothing moves in which a person types.
      const active = document.activeElement;
      if (active?.selectionStart != null && node.contains(active)) break;
    }
    return sameTag && comesLater(sameTag, fresh) ? null : sameTag;
  }

  function remove(node) {
    if (ids.has(node)) move(pantry, node, null);
    else node.remove();
  }

  function morphNode(node, fresh) {
    if (node.nodeType === Node.TEXT_NODE) {
      if (node.nodeValue !== fresh.nodeValue) node.nodeValue = fresh.nodeValue;
      return;
    }
    if (node.matches("[data-keep]")) return;
    copyAttributes(node, fresh);
    if (!node.isEqualNode(fresh)) morphChildren(node, fresh, node.firstChild, null);
  }

  // Morphs the children of a node from `next` to before `end`.
  function morphChildren(parent, source, next, end) {
    for (const fresh of [...source.childNodes]) {
      let match = next && next !== end ? bestMatch(fresh, next, end) : null;
      while (match && next !== match) {
        const passed = next;
        next = next.nextSibling;
        if (passed instanceof Element && (ids.has(passed) || comesLater(passed, fresh)))
          move(parent, passed, end);
        else remove(passed);
      }
      if (!match && ids.get(fresh)?.has(fresh.id)) {
        match = old.get(fresh.id);
        for (let up = match.parentNode; up; up = up.parentNode) {
          ids.get(up)?.delete(fresh.id);
          if (ids.get(up)?.size === 0) ids.delete(up);
        }
        move(parent, match, next);
      }
      if (!match && ids.has(fresh)) {
        match = document.createElement(fresh.tagName);
        parent.insertBefore(match, next);
      }
      if (match) {
        morphNode(match, fresh);
        next = match.nextSibling;
      } else parent.insertBefore(fresh, next);
    }
    while (next && next !== end) {
      const gone = next;
      next = next.nextSibling;
      remove(gone);
    }
  }

  morphChildren(target.parentNode, content, target, target.nextSibling);
  pantry.remove();
}
