// The image: decoded values from the server, a window, zoom and position.
"use strict";

class Viewer {
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.image = null;
    this.inverted = false;
    this.panning = false;
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.startDrag(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    canvas.addEventListener("pointerup", () => { this.dragging = null; });
    canvas.addEventListener("pointercancel", () => { this.dragging = null; });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15, event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  clear() {
    this.image = null;
    this.draw();
  }

  // Show levels, a Uint16Array of rows x columns; keep window and position if it is the same image.
  show(properties, levels, keepsView) {
    const before = this.image;
    const { rows, columns } = properties;
    this.image = { ...properties, levels };
    this.raster = new OffscreenCanvas(columns, rows);
    this.pixels = new ImageData(columns, rows);
    if (keepsView && before) {
      const ratio = before.columns / columns;
      this.scale *= ratio;
      const toLevel = (value) => (value - properties.intercept) / properties.slope;
      const toValue = (level) => before.intercept + before.slope * level;
      [this.low, this.high] = [toLevel(toValue(this.low)), toLevel(toValue(this.high))];
    } else {
      this.reset();
    }
    this.apply();
  }

  reset() {
    if (!this.image) return;
    this.low = this.image.low;
    this.high = this.image.high;
    this.scale = null;
    this.x = this.y = 0;
    this.apply();
  }

  // Set the window between two percentiles of the image, without its darkest level (padding).
  autoWindow() {
    if (!this.image) return;
    const counts = new Uint32Array(65536);
    for (const level of this.image.levels) counts[level] += 1;
    counts[0] = 0;
    const total = counts.reduce((sum, count) => sum + count, 0);
    const at = (share) => {
      let seen = 0;
      return counts.findIndex((count) => (seen += count) > share * total);
    };
    this.low = Math.max(at(0.01), 0);
    this.high = Math.max(at(0.995), this.low + 2);
    this.apply();
  }

  // Map levels to gray by the window. Standard: PS3.3 C.11.2.1.3.2 (LINEAR_EXACT).
  apply() {
    if (!this.image) return;
    const lut = new Uint32Array(65536);
    const span = Math.max(this.high - this.low, 1e-6);
    for (let level = 0; level < 65536; level += 1) {
      let gray = Math.min(255, Math.max(0, Math.round(255 * (level - this.low) / span)));
      if (this.inverted) gray = 255 - gray;
      lut[level] = (0xff000000 | (gray << 16) | (gray << 8) | gray) >>> 0;
    }
    const target = new Uint32Array(this.pixels.data.buffer);
    const levels = this.image.levels;
    for (let index = 0; index < levels.length; index += 1) target[index] = lut[levels[index]];
    this.raster.getContext("2d").putImageData(this.pixels, 0, 0);
    this.draw();
  }

  fitScale() {
    const box = this.canvas.getBoundingClientRect();
    return Math.min(box.width / this.image.columns, box.height / this.image.rows);
  }

  draw() {
    const box = this.canvas.getBoundingClientRect();
    const density = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(box.width * density));
    const height = Math.max(1, Math.round(box.height * density));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (this.image) {
      const scale = this.scale ?? this.fitScale();
      context.imageSmoothingQuality = "high";
      context.imageSmoothingEnabled = scale * density < 3;
      const [w, h] = [this.image.columns * scale, this.image.rows * scale];
      context.setTransform(density, 0, 0, density, 0, 0);
      context.drawImage(this.raster, (box.width - w) / 2 + this.x, (box.height - h) / 2 + this.y, w, h);
    }
    this.onChange(this);
  }

  zoomBy(factor, atX, atY) {
    if (!this.image) return;
    const box = this.canvas.getBoundingClientRect();
    const before = this.scale ?? this.fitScale();
    const scale = Math.min(Math.max(before * factor, this.fitScale() / 4), 40);
    const [fromX, fromY] = [(atX ?? box.width / 2) - box.width / 2, (atY ?? box.height / 2) - box.height / 2];
    this.x = fromX - (fromX - this.x) * (scale / before);
    this.y = fromY - (fromY - this.y) * (scale / before);
    this.scale = scale;
    this.draw();
  }

  move(x, y) {
    if (!this.image) return;
    this.scale ??= this.fitScale();
    this.x += x;
    this.y += y;
    this.draw();
  }

  // Change the window by shares of its width: right widens it, up makes the image brighter.
  changeWindow(wider, brighter) {
    if (!this.image) return;
    const width = Math.max(this.high - this.low, 2);
    const center = (this.high + this.low) / 2 - brighter * width;
    const next = Math.min(Math.max(width * Math.exp(wider), 2), 1e6);
    this.low = center - next / 2;
    this.high = center + next / 2;
    this.apply();
  }

  invert() {
    this.inverted = !this.inverted;
    this.apply();
  }

  startDrag(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.dragging = {
      x: event.clientX,
      y: event.clientY,
      pans: this.panning || event.shiftKey || event.button !== 0,
    };
  }

  drag(event) {
    if (!this.dragging) return;
    const [dx, dy] = [event.clientX - this.dragging.x, event.clientY - this.dragging.y];
    this.dragging.x = event.clientX;
    this.dragging.y = event.clientY;
    if (this.dragging.pans) this.move(dx, dy);
    else this.changeWindow(dx / 250, -dy / 400);
  }

  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    if (event.shiftKey) this.move(40 * step[0], -40 * step[1]);
    else this.changeWindow(0.08 * step[0], 0.04 * step[1]);
  }

  // Window center and width in units of the modality, and zoom in percent of the full image.
  describe() {
    if (!this.image) return "";
    const value = (level) => this.image.intercept + this.image.slope * level;
    const center = Math.round((value(this.low) + value(this.high)) / 2);
    const width = Math.round(Math.abs(value(this.high) - value(this.low)));
    const reduction = Math.max(this.image.rows, this.image.columns) / this.image.full;
    const zoom = Math.round(100 * (this.scale ?? this.fitScale()) * reduction);
    return `C ${center}  W ${width}  ${zoom} %`;
  }

  get isReduced() {
    return this.image && Math.max(this.image.rows, this.image.columns) < this.image.full;
  }

  // Whether more of the image can be seen at this zoom than was loaded.
  get needsFull() {
    const density = window.devicePixelRatio || 1;
    return this.isReduced && (this.scale ?? this.fitScale()) * density > 1.4;
  }
}
