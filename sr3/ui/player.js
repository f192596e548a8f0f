// What the stage and the board share: the frames of a run, played in order, and a picture's square.
//
// Python puts this before each of them. Frames are played at a steady pace, sooner once the result is
// there, so that none is lost between two polls; what Python says last is shown after the last of
// them. Once a run has ended, its timeline scrubs through its frames.

const HURRY = 25 // shortest time a frame is shown once the result is there, milliseconds

// One player for each place, which goes on while Streamlit sends it data.
function mounted(Kind) {
  const made = new WeakMap()
  return ({ data, parentElement }) => {
    if (!made.has(parentElement)) made.set(parentElement, new Kind(parentElement))
    const player = made.get(parentElement)
    player.receive(data)
    return () => player.stop()
  }
}

// A kind of it has `showStill`, `showFrame` and `pace`.
class Player {
  constructor(parent, name, markup) {
    this.root = document.createElement('div')
    this.root.className = name
    this.root.innerHTML = markup
    parent.append(this.root)
    this.find = (selector) => this.root.querySelector(selector)
    this.frames = new Map() // index -> frame, of the current run
    this.queue = []
    this.playing = false // again, by the visitor
    this.calm = matchMedia('(prefers-reduced-motion: reduce)').matches
    this.find('.timeline').addEventListener('input', (event) => this.scrub(+event.target.value))
  }

  receive(data) {
    this.data = data
    if (data.run !== this.run) this.begin(data)
    for (const frame of data.frames) {
      if (this.frames.has(frame.index)) continue
      this.frames.set(frame.index, frame)
      if (frame.index > this.shown) this.queue.push(frame)
    }
    this.queue.sort((one, other) => one.index - other.index)
    if (this.calm && !this.playing) this.queue = this.queue.slice(-1)
    this.play()
  }

  begin(data) {
    this.frames.clear()
    this.queue = []
    this.run = this.root.dataset.run = data.run
    this.settled = null
    this.playing = false
    this.shown = data.live ? -1 : Infinity // a finished run is not played again by itself
    for (const divider of this.root.querySelectorAll('.divider')) divider.value = 50
    this.say(data.live ? data.announce : '') // the same end twice is told twice
  }

  // Show what is due: the next frame, or, when none is left, what Python last said.
  play() {
    if (this.timer) return
    const frame = this.queue.shift()
    if (frame) {
      this.shown = frame.index
      this.showFrame(frame)
      this.timer = setTimeout(() => { this.timer = null; this.play() }, this.pace())
    } else if (this.data.live) {
      if (this.shown < 0) this.showStill()
    } else if (this.playing || this.settled !== this.data.stamp) {
      this.settled = this.data.stamp
      this.playing = false
      this.showStill()
    }
  }

  scrub(value) {
    if (value >= this.data.at) return this.showStill()
    const indices = [...this.frames.keys()].filter((index) => index <= value)
    if (indices.length) this.showFrame(this.frames.get(Math.max(...indices)))
    this.setTimeline(value, this.find('.text').textContent)
  }

  setTimeline(value, text) {
    const timeline = this.find('.timeline')
    timeline.value = value
    timeline.style.setProperty('--share', `${(100 * timeline.value) / timeline.max}%`)
    timeline.setAttribute('aria-valuetext', text)
  }

  write(text, left) {
    this.find('.text').textContent = text
    this.find('.left').textContent = left
  }

  // For screen readers: the start and the end of a run, not its every step.
  say(text) {
    const place = this.find('.announce')
    if (place.textContent !== text) place.textContent = text
  }

  // Streamlit may end a component and go on with it: what comes next must find no dead timer.
  stop() {
    clearTimeout(this.timer)
    this.timer = null
  }
}

// A picture and, where it has one, what it is compared with under a divider.
const SQUARE = `
  <img class="after" alt="" draggable="false" hidden>
  <img class="before" alt="" draggable="false" hidden>
  <span class="empty"></span>
  <span class="handle" aria-hidden="true" hidden></span>
  <input class="divider" type="range" min="0" max="100" value="50" step="1" hidden
         aria-label="Before and after">`
const CAPTION = '<figcaption><b></b><span></span></figcaption>'

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

function follow(figure) {
  figure.querySelector('.divider').addEventListener('input', () => divide(figure))
}

function divide(figure) {
  const divider = figure.querySelector('.divider')
  figure.style.setProperty('--cut', `${divider.value}%`)
  divider.setAttribute('aria-valuetext', `${divider.value} % ${figure.dataset.before}`)
}
