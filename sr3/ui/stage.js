// The stage: two large and two small squares, a status line and a timeline under it.
//
// Python sends what should be seen before and after the frames (`still`) and around each
// (`playing`); the rest is in `player.js`.

const PACE = 70 // shortest time a frame is shown, milliseconds
const SLOTS = ['a', 'b', 'c', 'd']
const MARKUP = `
  <div class="status"><span class="text"></span><span class="left"></span></div>
  <input class="timeline" type="range" min="0" max="1" value="0" step="1"
         aria-label="Step of the run" disabled>
  <div class="squares">
    ${SLOTS.map((slot) => `
      <figure class="${slot}"><div class="square">${SQUARE}</div>${CAPTION}</figure>`).join('')}
  </div>
  <p class="announce" role="status"></p>`

class Stage extends Player {
  constructor(parent) {
    super(parent, 'stage', MARKUP)
    this.root.querySelectorAll('figure').forEach(follow)
  }

  begin(data) {
    const asked = this.run !== undefined // a page that opens with a run does not scroll to it
    super.begin(data)
    if (data.live && asked) this.comeIntoView()
  }

  pace() {
    return this.data.live ? PACE : HURRY
  }

  showStill() {
    const { still, status, left, live, total, at } = this.data
    for (const slot of SLOTS) fill(this.find(`figure.${slot}`), still[slot])
    this.write(status, left)
    const timeline = this.find('.timeline')
    timeline.disabled = live || this.frames.size < 2
    timeline.max = total || 1
    this.setTimeline(at, status)
    this.say(this.data.announce)
  }

  showFrame(frame) {
    const { a, b } = this.data.playing
    fill(this.find('figure.a'), { ...a, image: frame.x0, note: a.note })
    fill(this.find('figure.b'), { ...b, image: frame.x_t })
    for (const slot of ['c', 'd']) fill(this.find(`figure.${slot}`), this.data.playing[slot])
    const timeline = this.find('.timeline')
    timeline.max = frame.total
    timeline.disabled = this.data.live || this.queue.length > 0
    this.setTimeline(frame.index, frame.status)
    this.write(frame.status, this.data.live ? this.data.left : '')
  }

  comeIntoView() {
    this.find('.squares').scrollIntoView({ block: 'nearest', behavior: this.calm ? 'auto' : 'smooth' })
  }
}

export default mounted(Stage)
