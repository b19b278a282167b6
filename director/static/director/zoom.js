// A picture in a stage: fitted, or enlarged about a point and moved. By wheel, drag, pinch, double tap and click.
const MOST = 16; // pixels of the screen for one of the picture
const STILL = 6; // pixels: a pointer that moves less is a click
const SWIPE = 50; // pixels
const TWICE = 350; // milliseconds between the taps of a double tap
const LIKE = 0.02; // pictures whose shapes differ less are shown at the same place

// A pinch on a trackpad is a wheel with Ctrl, and its steps are small.
export const wheelFactor = ({ deltaY, deltaMode, ctrlKey }) =>
  Math.exp(-deltaY * (deltaMode ? 0.05 : ctrlKey ? 0.01 : 0.002));

// By what a finger that moved enlarges, about the middle between it and another one; of a lone finger nothing.
export function pinch(fingers, before, event) {
  const other = [...fingers.values()].find((one) => one.pointerId !== event.pointerId);
  if (!other) return {};
  const apart = (one) =>
    Math.max(Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY), 1);
  const middle = {
    clientX: (event.clientX + other.clientX) / 2,
    clientY: (event.clientY + other.clientY) / 2,
  };
  return { factor: apart(event) / apart(before), middle };
}

export class Zoom {
  fitted = true;
  #natural = null; // width and height of the picture; null: what is shown is none
  #at = { x: 0, y: 0, width: 0 }; // of the picture in the stage
  #fingers = new Map(); // pointer → its last event
  #start = null; // where a lone pointer began
  #tapped = { time: 0, x: 0, y: 0 };

  // images: those that are drawn at one place. changed: called after each change. swiped: called with -1 or 1.
  constructor(stage, images, { changed, swiped }) {
    Object.assign(this, { stage, images, changed, swiped });
    new ResizeObserver(() => this.#again()).observe(stage);
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.onpointerdown = (event) => this.#down(event);
    stage.onpointermove = (event) => this.#move(event);
    stage.onpointerup = (event) => this.#up(event);
    stage.onpointercancel = (event) => {
      this.#fingers.delete(event.pointerId);
      this.#start = null;
    };
  }

  get percent() {
    return this.#natural
      ? Math.round((this.#at.width / this.#natural.width) * devicePixelRatio * 100)
      : 0;
  }

  // Another picture, or another copy of it, has this size. One of the same shape keeps place and size: so details of two
  // pictures can be compared.
  size(width, height) {
    const before = this.#natural;
    this.#natural = { width, height };
    if (before && Math.abs((before.width * height) / (before.height * width) - 1) > LIKE)
      this.fitted = true;
    this.#again();
  }

  // No picture is shown: gestures do nothing, except a swipe.
  none() {
    this.#natural = null;
    this.fitted = true;
  }

  fit() {
    if (!this.#natural) return;
    this.fitted = true;
    this.#put(0, 0, this.#fitting());
  }

  real() {
    this.#to(this.#natural?.width / devicePixelRatio);
  }

  by(factor, point) {
    this.#to(this.#at.width * factor, point);
  }

  // Enlarges to 1:1, or twice if that is hardly larger; fits again.
  toggle(point) {
    if (!this.fitted) {
      this.fit();
      return;
    }
    const fitting = this.#fitting(),
      real = this.#natural?.width / devicePixelRatio;
    this.#to(real > 1.2 * fitting ? real : 2 * fitting, point);
  }

  pan(x, y) {
    if (this.#natural && !this.fitted) this.#put(this.#at.x + x, this.#at.y + y, this.#at.width);
  }

  #fitting() {
    const { width, height } = this.#natural ?? { width: 1, height: 1 };
    return width * Math.min(this.stage.clientWidth / width, this.stage.clientHeight / height);
  }

  #again() {
    if (this.fitted) this.fit();
    else this.#put(this.#at.x, this.#at.y, this.#at.width);
  }

  // What is below the point, or in the middle of the stage, stays there.
  #to(width, point = [this.stage.clientWidth / 2, this.stage.clientHeight / 2]) {
    if (!this.#natural) return;
    const fitting = this.#fitting(),
      real = this.#natural.width / devicePixelRatio;
    const next = Math.min(
      Math.max(width, Math.min(fitting, real)),
      Math.max(MOST * real, 2 * fitting),
    );
    const factor = next / this.#at.width;
    this.fitted = Math.abs(next - fitting) < 0.5;
    this.#put(
      point[0] - (point[0] - this.#at.x) * factor,
      point[1] - (point[1] - this.#at.y) * factor,
      next,
    );
  }

  // A picture that is smaller than the stage is in its middle, the edges of a larger one are not inside the stage.
  #put(x, y, width) {
    if (!this.#natural) return;
    const height = (width * this.#natural.height) / this.#natural.width;
    const inside = (at, size, room) =>
      size <= room ? (room - size) / 2 : Math.min(Math.max(at, room - size), 0);
    this.#at = {
      width,
      x: inside(x, width, this.stage.clientWidth),
      y: inside(y, height, this.stage.clientHeight),
    };
    for (const { style } of this.images) {
      style.width = `${width}px`;
      style.height = `${height}px`;
      style.transform = `translate(${this.#at.x}px, ${this.#at.y}px)`;
    }
    this.changed();
  }

  #point({ clientX, clientY }) {
    const box = this.stage.getBoundingClientRect();
    return [clientX - box.left, clientY - box.top];
  }

  #wheel(event) {
    if (!this.#natural) return;
    event.preventDefault();
    this.by(wheelFactor(event), this.#point(event));
  }

  #down(event) {
    const { target, pointerType, pointerId, clientX, clientY } = event;
    if (event.button || (!this.#natural && pointerType === "mouse")) return;
    // The controls of a player are at its lower edge.
    if (
      target.matches("audio") ||
      (target.matches("video") && clientY > target.getBoundingClientRect().bottom - 72)
    )
      return;
    if (this.#natural) {
      event.preventDefault();
      this.stage.focus();
      this.stage.setPointerCapture(pointerId);
    }
    this.#start = this.#fingers.size ? null : { x: clientX, y: clientY };
    this.#fingers.set(pointerId, event);
  }

  #move(event) {
    const before = this.#fingers.get(event.pointerId);
    if (!before) return;
    this.#fingers.set(event.pointerId, event);
    const others = this.#fingers.size;
    this.pan((event.clientX - before.clientX) / others, (event.clientY - before.clientY) / others);
    const { factor, middle } = pinch(this.#fingers, before, event);
    if (factor && this.#natural) this.by(factor, this.#point(middle));
  }

  #up(event) {
    const start = this.#start,
      { clientX, clientY, pointerType } = event;
    this.#start = null;
    if (!this.#fingers.delete(event.pointerId) || !start) return;
    const x = clientX - start.x,
      y = clientY - start.y;
    const isTouch = pointerType !== "mouse";
    if (Math.hypot(x, y) < STILL) {
      if (this.#natural) this.#tap(event, isTouch);
      return;
    }
    if (isTouch && this.fitted && Math.abs(x) > SWIPE && Math.abs(x) > 1.5 * Math.abs(y))
      this.swiped(x > 0 ? -1 : 1);
  }

  #tap(event, isTouch) {
    const [x, y] = this.#point(event),
      last = this.#tapped;
    this.#tapped = { time: event.timeStamp, x, y };
    const twice = event.timeStamp - last.time < TWICE && Math.hypot(x - last.x, y - last.y) < 40;
    if (isTouch && !twice) return;
    if (isTouch) this.#tapped.time = 0;
    this.toggle([x, y]);
  }
}
