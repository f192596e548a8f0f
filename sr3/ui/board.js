// The board: equal squares that change together, with a timeline, a play button and a lens.
//
// What Python says last (`pictures`) is shown before and after the frames; the play button plays a
// run that has ended again. The lens shows the same place of every square, three times as large. The
// rest is in `player.js`.

const ZOOM = 3
const AGAIN = 180 // shortest time a frame is shown while it is played again, milliseconds
const MARKUP = `
  <div class="status"><span class="text"></span><span class="left"></span></div>
  <div class="controls">
    <button class="play" type="button"></button>
    <input class="timeline" type="range" min="0" max="1" value="0" step="1" disabled
           aria-label="Step of the run">
  </div>
  <svg class="path" viewBox="0 0 100 24" preserveAspectRatio="none" role="img"></svg>
  <div class="panels" role="group" tabindex="-1"></div>
  <button class="lens-toggle" type="button" aria-pressed="false">Lens</button>
  <p class="announce" role="status"></p>`
const PANEL = `
  <div class="square">
    ${SQUARE}
    <span class="lens" aria-hidden="true" hidden><img alt="" draggable="false"></span>
  </div>
  ${CAPTION}`

class Board extends Player {
  constructor(parent) {
    super(parent, 'board', MARKUP)
    this.panels = this.find('.panels')
    this.lensOn = matchMedia('(hover: hover)').matches
    this.place = [0.5, 0.5]
    this.find('.play').addEventListener('click', () => this.toggle())
    this.find('.lens-toggle').addEventListener('click', () => this.switchLens())
    this.panels.addEventListener('pointermove', (event) => this.point(event))
    this.panels.addEventListener('pointerdown', (event) => this.point(event))
    this.panels.addEventListener('pointerleave', () => { if (!this.pinned) this.hideLens() })
    this.panels.addEventListener('keydown', (event) => this.steer(event))
  }

  receive(data) {
    this.data = data
    this.arrange()
    if (data.run !== this.run) this.pinned = false
    if (!this.pinned && data.lens) this.place = [...data.lens]
    super.receive(data)
  }

  // As many squares as there are pictures, each kept in its place.
  arrange() {
    const { pictures, columns, timeline, lens, path, label } = this.data
    while (this.panels.children.length > pictures.length) this.panels.lastChild.remove()
    while (this.panels.children.length < pictures.length) {
      const figure = document.createElement('figure')
      figure.innerHTML = PANEL
      follow(figure)
      this.panels.append(figure)
    }
    this.panels.style.setProperty('--columns', Math.min(columns, pictures.length))
    this.panels.classList.toggle('single', pictures.length === 1)
    this.find('.controls').hidden = !timeline
    this.find('.status').hidden = !timeline && !this.data.status
    this.find('.lens-toggle').hidden = !lens
    this.find('.lens-toggle').setAttribute('aria-pressed', this.lensOn)
    this.panels.tabIndex = lens ? 0 : -1
    this.panels.setAttribute('aria-label', lens ? `${label}. Arrow keys move the lens.` : label)
    this.panels.classList.toggle('lensed', Boolean(lens) && this.lensOn)
    draw(this.find('.path'), path)
  }

  play() {
    super.play()
    this.button()
  }

  pace() {
    if (this.playing) return Math.max(this.data.pace, AGAIN)
    return this.data.live ? this.data.pace : HURRY
  }

  // Play the run again from the frame that is shown, or from its start; or stop playing.
  toggle() {
    if (this.playing) {
      this.playing = false
      this.queue = []
      this.stop()
      return this.button()
    }
    const at = +this.find('.timeline').value
    const from = at >= this.data.at ? -1 : at
    this.queue = [...this.frames.values()].filter((frame) => frame.index > from)
    this.queue.sort((one, other) => one.index - other.index)
    this.playing = true
    this.play()
  }

  button() {
    const button = this.find('.play')
    const busy = this.data.live || this.frames.size < 2
    button.disabled = busy
    button.textContent = this.playing ? '❚❚' : '▶'
    button.setAttribute('aria-label', this.playing ? 'Pause' : 'Play the run')
    this.find('.timeline').disabled = busy
  }

  showStill() {
    const { pictures, status, left, total, at } = this.data
    pictures.forEach((picture, k) => fill(this.panels.children[k], picture))
    this.write(status, left)
    this.find('.timeline').max = total || 1
    this.setTimeline(at, status)
    this.say(this.data.announce)
    this.moveLens()
  }

  showFrame(frame) {
    this.data.pictures.forEach((picture, k) => {
      const image = frame.images[k] || picture.image
      const note = frame.notes[k] ?? picture.note
      fill(this.panels.children[k], { ...picture, image, note, crisp: picture.crisp && !frame.images[k] })
    })
    this.find('.timeline').max = this.data.total || 1
    this.setTimeline(frame.index, frame.status)
    this.write(frame.status, this.data.live ? this.data.left : '')
    this.moveLens()
  }

  scrub(value) {
    if (this.playing) this.toggle()
    super.scrub(value)
  }

  setTimeline(value, text) {
    super.setTimeline(value, text)
    const { value: at, max } = this.find('.timeline')
    const share = (100 * at) / max
    const now = this.find('.path .now')
    if (now) now.setAttribute('x1', share), now.setAttribute('x2', share)
  }

  // ------------------------------------------------------------------------------------ the lens
  switchLens() {
    this.lensOn = !this.lensOn
    this.pinned = this.lensOn
    this.find('.lens-toggle').setAttribute('aria-pressed', this.lensOn)
    this.panels.classList.toggle('lensed', this.lensOn)
    if (this.lensOn) this.showLens()
    else this.hideLens()
  }

  point(event) {
    const square = event.target.closest?.('.square')
    if (!this.data.lens || !this.lensOn || !square) return
    const box = square.getBoundingClientRect()
    this.place = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
    this.showLens()
  }

  steer(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key]
    if (!this.data.lens || event.target !== this.panels) return
    if (event.key === 'Escape') return this.hideLens()
    if (!step) return
    event.preventDefault()
    this.lensOn = this.pinned = true
    this.find('.lens-toggle').setAttribute('aria-pressed', true)
    this.place = this.place.map((value, axis) => Math.min(1, Math.max(0, value + step[axis] / 32)))
    this.showLens()
  }

  showLens() {
    for (const lens of this.root.querySelectorAll('.lens')) lens.hidden = false
    this.moveLens()
  }

  hideLens() {
    for (const lens of this.root.querySelectorAll('.lens')) lens.hidden = true
  }

  moveLens() {
    for (const square of this.root.querySelectorAll('.square')) {
      const lens = square.querySelector('.lens')
      const source = square.querySelector('.after')
      if (lens.hidden) continue
      lens.classList.toggle('gone', source.hidden || !square.querySelector('.divider').hidden)
      const image = lens.firstChild
      if (image.getAttribute('src') !== source.getAttribute('src')) image.src = source.src
      image.className = source.classList.contains('crisp') ? 'crisp' : ''
      const side = square.clientWidth
      const half = lens.offsetWidth / 2
      lens.style.left = `${this.place[0] * side - half}px`
      lens.style.top = `${this.place[1] * side - half}px`
      image.style.width = image.style.height = `${side * ZOOM}px`
      image.style.left = `${half - this.place[0] * side * ZOOM}px`
      image.style.top = `${half - this.place[1] * side * ZOOM}px`
    }
  }
}

// The share of noise at each step, as a curve that grows with the run, in a place of its own from
// the start; `now` is where the timeline stands.
function draw(svg, path) {
  svg.toggleAttribute('hidden', !path) // an SVG has no `hidden` property
  if (!path || svg.drawn === String(path)) return
  svg.drawn = String(path)
  const points = path.map(([at, share]) => `${(100 * at).toFixed(2)},${(23 - 22 * share).toFixed(2)}`)
  const at = path.length ? 100 * path.at(-1)[0] : 0
  svg.innerHTML = `<polyline points="${points.join(' ')}"/><line class="now" y1="0" y2="24" x1="${at}" x2="${at}"/>`
  const [from, to] = path.length ? [path[0], path.at(-1)].map((each) => `${Math.round(100 * each[1])} %`) : []
  svg.setAttribute('aria-label', from ? `Share of noise at each step: from ${from} to ${to}` : 'Share of noise: no run yet')
}

export default mounted(Board)
