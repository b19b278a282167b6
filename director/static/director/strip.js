// The film strip of the viewer: a small picture of each file, the one that is shown marked and in the middle.
import { make } from "./dom.js";

export class Strip {
  #items = new Map(); // address of the file → its place
  #marked = null;

  // chosen: called with the address of a file.
  constructor(list, chosen) {
    this.list = list;
    list.onclick = ({ target }) => {
      const button = target.closest("button");
      if (button) chosen(button.dataset.file);
    };
  }

  // One that is there already is moved, not made again: its picture stays.
  draw(tiles) {
    const before = this.#items;
    this.#items = new Map(
      tiles.map((tile) => [tile.dataset.view, before.get(tile.dataset.view) ?? this.#make(tile)]),
    );
    const places = [...this.#items.values()];
    if (
      places.length !== this.list.children.length ||
      places.some((one, at) => one !== this.list.children[at])
    ) {
      this.list.replaceChildren(...places);
    }
    this.list.hidden = tiles.length < 2;
  }

  star(view, starred) {
    this.#items.get(view)?.classList.toggle("starred", starred);
  }

  mark(view) {
    const place = this.#items.get(view);
    if (place === this.#marked) return;
    const [old, button] = [this.#marked, place].map((one) => one?.firstElementChild);
    this.#marked = place;
    if (old) {
      old.ariaCurrent = null;
      old.tabIndex = -1;
    }
    if (!button) return;
    button.ariaCurrent = "true";
    button.tabIndex = 0;
    this.center();
  }

  center() {
    const { list } = this,
      place = this.#marked;
    if (place) list.scrollLeft = place.offsetLeft - (list.clientWidth - place.offsetWidth) / 2;
  }

  empty() {
    this.list.replaceChildren();
    this.#items.clear();
    this.#marked = null;
  }

  #make(tile) {
    const button = make("button", {
      type: "button",
      tabIndex: -1,
      ariaLabel: tile.dataset.title,
      title: tile.dataset.title,
    });
    button.dataset.file = tile.dataset.view;
    const small = tile.querySelector("img"),
      mark = tile.querySelector(".mark .icon");
    if (mark) button.append(mark.cloneNode(true));
    if (small || tile.dataset.kind === "image") {
      const image = new Image();
      Object.assign(image, {
        alt: "",
        loading: "lazy",
        draggable: false,
        src: small?.currentSrc || small?.src || `${tile.dataset.view}?w=160`,
      });
      image.onerror = () => image.remove();
      button.append(image);
    }
    return make("li", {}, button);
  }
}
