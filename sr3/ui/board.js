// The board: equal squares that change together, with a timeline, a play button and a lens.
//
// Frames are played in order at a steady pace, sooner once the result is there; what Python says last (`pictures`) is shown after
// the last of them. Once a run has ended the timeline scrubs, and the play button plays it again.
// The lens shows the same place of every square, three times as large.

const ZOOM = 3
const HURRY = 25 // shortest time a frame is shown once the result is there, milliseconds
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
    <img class="after" alt="" draggable="false" hidden>
    <img class="before" alt="" draggable="false" hidden>
    <span class="empty"></span>
    <span class="lens" aria-hidden="true" hidden><img alt="" draggable="false"></span>
    <span class="handle" aria-hidden="true" hidden></span>
    <input class="divider" type="range" min="0" max="100" value="50" step="1" hidden
           aria-label="Before and after">
  </div>
  <figcaption><b></b><span></span></figcaption>`

const boards = new WeakMap()

export default function ({ data, parentElement }) {
  let board = boards.get(parentElement)
  if (!board) boards.set(parentElement, (board = new Board(parentElement)))
  board.receive(data)
  return () => board.stop()
}

class Board {
  constructor(parent) {
    this.root = document.createElement('div')
    this.root.className = 'board'
    this.root.innerHTML = MARKUP
    parent.append(this.root)
    this.find = (selector) => this.root.querySelector(selector)
    this.panels = this.find('.panels')
    this.calm = matchMedia('(prefers-reduced-motion: reduce)').matches
    this.lensOn = matchMedia('(hover: hover)').matches
    this.frames = new Map()
    this.queue = []
    this.place = [0.5, 0.5]
    this.find('.timeline').addEventListener('input', (event) => this.scrub(+event.target.value))
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
    if (data.run !== this.run) {
      this.run = this.root.dataset.run = data.run
      this.frames.clear()
      this.queue = []
      this.settled = null
      this.playing = false
      this.shown = data.live ? -1 : Infinity // a finished run is not played again by itself
      this.pinned = false
      for (const divider of this.root.querySelectorAll('.divider')) divider.value = 50
      this.say(data.live ? data.announce : '') // the same end twice is told twice
    }
    if (!this.pinned && data.lens) this.place = [...data.lens]
    for (const frame of data.frames) {
      if (this.frames.has(frame.index)) continue
      this.frames.set(frame.index, frame)
      if (frame.index > this.shown) this.queue.push(frame)
    }
    this.queue.sort((one, other) => one.index - other.index)
    if (this.calm && !this.playing) this.queue = this.queue.slice(-1)
    this.play()
  }

  // As many squares as there are pictures, each kept in its place.
  arrange() {
    const { pictures, columns, timeline, lens, path, label } = this.data
    while (this.panels.children.length > pictures.length) this.panels.lastChild.remove()
    while (this.panels.children.length < pictures.length) {
      const figure = document.createElement('figure')
      figure.innerHTML = PANEL
      figure.querySelector('.divider').addEventListener('input', () => divide(figure))
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
    if (this.timer) return
    const frame = this.queue.shift()
    if (frame) {
      this.shown = frame.index
      this.showFrame(frame)
      const pace = this.playing ? Math.max(this.data.pace, 180) : this.data.live ? this.data.pace : HURRY
      this.timer = setTimeout(() => { this.timer = null; this.play() }, pace)
    } else if (this.data.live) {
      if (this.shown < 0) this.showStill()
    } else if (this.playing || this.settled !== this.data.stamp) {
      this.settled = this.data.stamp
      this.playing = false
      this.showStill()
    }
    this.button()
  }

  // Play the run again from the frame that is shown, or from its start; or stop playing.
  toggle() {
    if (this.playing) {
      this.playing = false
      this.queue = []
      clearTimeout(this.timer)
      this.timer = null
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
    if (value >= this.data.at) return this.showStill()
    const indices = [...this.frames.keys()].filter((index) => index <= value)
    if (indices.length) this.showFrame(this.frames.get(Math.max(...indices)))
    this.setTimeline(value, this.find('.text').textContent)
  }

  setTimeline(value, text) {
    const timeline = this.find('.timeline')
    timeline.value = value
    const share = (100 * timeline.value) / timeline.max
    timeline.style.setProperty('--share', `${share}%`)
    timeline.setAttribute('aria-valuetext', text)
    this.find('.path').style.setProperty('--at', share)
    const now = this.find('.path .now')
    if (now) now.setAttribute('x1', share), now.setAttribute('x2', share)
  }

  write(text, left) {
    this.find('.text').textContent = text
    this.find('.left').textContent = left
  }

  say(text) {
    const place = this.find('.announce')
    if (place.textContent !== text) place.textContent = text
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

  stop() {
    clearTimeout(this.timer)
    this.timer = null
  }
}

function fill(figure, picture) {
  const part = (selector) => figure.querySelector(selector)
  put(part('.after'), picture.image)
  put(part('.before'), picture.before)
  part('.after').alt = picture.alt
  part('.after').classList.toggle('crisp', Boolean(picture.crisp))
  part('.empty').textContent = picture.image ? '' : picture.alt
  part('b').textContent = picture.title
  part('figcaption span').textContent = picture.note
  part('.handle').hidden = part('.divider').hidden = !picture.before
  part('.divider').setAttribute('aria-label', `Before and after: ${picture.before_title} on the left`)
  figure.dataset.before = picture.before_title
  divide(figure)
}

function put(image, source) {
  image.hidden = !source
  if (source && image.getAttribute('src') !== source) image.src = source
}

function divide(figure) {
  const divider = figure.querySelector('.divider')
  figure.style.setProperty('--cut', `${divider.value}%`)
  divider.setAttribute('aria-valuetext', `${divider.value} % ${figure.dataset.before}`)
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
