/** The steps of one text: plays them, pauses, goes back and forward. Frames may still be arriving while it plays. */

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const WHOLE_MS = 3200; // of all steps, so that a few can be followed and many do not bore
const SHORTEST_MS = 40;
const LONGEST_MS = 420;

export class Player {
  /** `root` holds the controls; `show(frame, isLast)` draws; `rest()` is called where it stands still. */
  constructor(root, { show, rest }) {
    this.root = root;
    this.show = show;
    this.rest = rest;
    this.find = (name) => root.querySelector(`[data-player="${name}"]`);
    this.slider = this.find("slider");
    this.find("back").addEventListener("click", () => this.go(this.position - 1));
    this.find("forward").addEventListener("click", () => this.go(this.position + 1));
    this.find("play").addEventListener("click", () => (this.playing ? this.pause() : this.play()));
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    this.clear();
  }

  clear() {
    clearTimeout(this.timer);
    Object.assign(this, { frames: [], position: 0, playing: false, open: false, expected: null });
    this.root.hidden = true;
  }

  /** Begin a text whose frames will arrive, about so many. */
  begin(expected) {
    this.clear();
    Object.assign(this, { open: true, playing: true, expected });
  }

  push(frame) {
    this.frames.push(frame);
    this.root.hidden = false;
    if (this.frames.length === 1) this.draw();
    this.update();
    if (this.playing && this.timer === undefined) this.tick();
  }

  /** No more frames will come. */
  end() {
    this.open = false;
    if (this.playing && calm.matches) this.position = Math.max(0, this.frames.length - 1);
    if (this.playing && this.isLast) this.stop();
    this.update();
    if (this.frames.length > 0) this.draw();
  }

  /** Frames that are all here, shown from the last. */
  load(frames) {
    this.clear();
    Object.assign(this, { frames, position: frames.length - 1 });
    this.root.hidden = frames.length === 0;
    this.update();
  }

  get isLast() {
    return !this.open && this.position >= this.frames.length - 1;
  }

  play() {
    if (this.isLast) this.position = 0;
    this.playing = true;
    this.draw();
    this.update();
    this.tick();
  }

  pause() {
    this.stop();
    this.update();
  }

  go(position) {
    this.position = Math.min(Math.max(position, 0), Math.max(0, this.frames.length - 1));
    this.stop();
    this.draw();
    this.update();
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.playing = false;
    this.rest();
  }

  tick() {
    const count = this.open ? (this.expected ?? 16) : this.frames.length;
    const wait = Math.min(LONGEST_MS, Math.max(SHORTEST_MS, WHOLE_MS / Math.max(1, count)));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = undefined;
      if (!this.playing) return;
      const isThere = this.position < this.frames.length - 1;
      if (isThere && !(calm.matches && this.open)) {
        this.position += 1;
        this.draw();
      }
      if (this.isLast) this.stop();
      else this.tick();
      this.update();
    }, wait);
  }

  draw() {
    const frame = this.frames[this.position];
    if (frame) this.show(frame, this.isLast);
  }

  update() {
    const last = Math.max(0, this.frames.length - 1);
    const most = this.open ? Math.max(last, this.expected ?? 0) : last;
    const words = `step ${this.frames[this.position]?.step ?? 0} of ${this.open ? most : (this.frames.at(-1)?.step ?? 0)}`;
    this.slider.max = String(most);
    this.slider.value = String(this.position);
    this.slider.setAttribute("aria-valuetext", words);
    this.find("step").textContent = words;
    this.find("back").disabled = this.position === 0;
    this.find("forward").disabled = this.position >= last;
    const play = this.find("play");
    play.dataset.playing = String(this.playing);
    play.setAttribute("aria-label", this.playing ? "Pause" : this.isLast ? "Play again" : "Play");
  }
}
