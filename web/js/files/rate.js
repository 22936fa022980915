const SPAN = 3000;
const PAUSE = 50;

/** The speed of the last seconds, and when to report it. */
export class Rate {
  /** @type {[number, number][]} */
  #points = [];
  #reported = -Infinity;

  /**
   * Bytes a second, now that `done` bytes are there.
   *
   * @param {number} done
   */
  at(done) {
    const now = performance.now();
    this.#points.push([now, done]);
    while (this.#points.length > 2 && now - this.#points[0][0] > SPAN) this.#points.shift();
    const [then, before] = this.#points[0];
    return now > then ? Math.max(0, ((done - before) * 1000) / (now - then)) : 0;
  }

  /**
   * True at most 20 times a second, and for the last report.
   *
   * @param {boolean} last
   */
  due(last) {
    const now = performance.now();
    if (!last && now - this.#reported < PAUSE) return false;
    this.#reported = now;
    return true;
  }
}
