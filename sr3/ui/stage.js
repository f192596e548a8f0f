// The stage: two large and two small squares, a status line and a timeline under it.
//
// Python sends what should be seen (`still`) and the frames of the current run; frames are played
// in order at a steady pace, sooner once the result is there, so that none is lost between two
// polls, and `still` is shown after the last. Once a run has ended, the timeline scrubs through its frames.

const PACE = 70 // shortest time a frame is shown, milliseconds
const HURRY = 25 // the same once the result is there
const MARKUP = `
  <div class="status"><span class="text"></span><span class="left"></span></div>
  <input class="timeline" type="range" min="0" max="1" value="0" step="1"
         aria-label="Step of the run" disabled>
  <div class="squares">
    ${['a', 'b', 'c', 'd'].map((slot) => `
      <figure class="${slot}">
        <div class="square">
          <img class="after" alt="" draggable="false" hidden>
          <img class="before" alt="" draggable="false" hidden>
          <span class="empty"></span>
          <span class="handle" aria-hidden="true" hidden></span>
          <input class="divider" type="range" min="0" max="100" value="50" step="1" hidden>
        </div>
        <figcaption><b></b><span></span></figcaption>
      </figure>`).join('')}
  </div>
  <p class="announce" role="status"></p>`

const stages = new WeakMap()

export default function ({ data, parentElement }) {
  let stage = stages.get(parentElement)
  if (!stage) stages.set(parentElement, (stage = new Stage(parentElement)))
  stage.receive(data)
  return () => stage.stop()
}

class Stage {
  constructor(parent) {
    this.root = document.createElement('div')
    this.root.className = 'stage'
    this.root.innerHTML = MARKUP
    parent.append(this.root)
    this.find = (selector) => this.root.querySelector(selector)
    this.frames = new Map() // index -> frame, of the current run
    this.queue = []
    this.run = null
    this.calm = matchMedia('(prefers-reduced-motion: reduce)').matches
    this.find('.timeline').addEventListener('input', (event) => this.scrub(+event.target.value))
    for (const figure of this.root.querySelectorAll('figure')) {
      const divider = figure.querySelector('.divider')
      divider.addEventListener('input', () => divide(figure))
    }
  }

  receive(data) {
    this.data = data
    if (data.run !== this.run) {
      const asked = this.run !== null // a page that opens with a run does not scroll to it
      this.frames.clear()
      this.queue = []
      this.run = this.root.dataset.run = data.run
      this.settled = null
      this.shown = data.live ? -1 : Infinity // a finished run is not played again
      for (const divider of this.root.querySelectorAll('.divider')) divider.value = 50
      this.say(data.live ? data.announce : '') // the same end twice is told twice
      if (data.live && asked) this.comeIntoView()
    }
    for (const frame of data.frames) {
      if (this.frames.has(frame.index)) continue
      this.frames.set(frame.index, frame)
      if (frame.index > this.shown) this.queue.push(frame)
    }
    this.queue.sort((one, other) => one.index - other.index)
    if (this.calm) this.queue = this.queue.slice(-1)
    this.play()
  }

  // Show what is due: the next frame, or, when none is left, what Python last said.
  play() {
    if (this.timer) return
    const frame = this.queue.shift()
    if (frame) {
      this.shown = frame.index
      this.showFrame(frame)
      this.timer = setTimeout(() => { this.timer = null; this.play() }, this.data.live ? PACE : HURRY)
    } else if (this.data.live) {
      if (this.shown < 0) this.showStill()
    } else if (this.settled !== this.data.stamp) {
      this.settled = this.data.stamp
      this.showStill()
    }
  }

  showStill() {
    const { still, status, left, live, total, at, frames } = this.data
    for (const slot of ['a', 'b', 'c', 'd']) fill(this.find(`figure.${slot}`), still[slot])
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

  comeIntoView() {
    this.find('.squares').scrollIntoView({ block: 'nearest', behavior: this.calm ? 'auto' : 'smooth' })
  }

  // Streamlit may end a component and go on with it: what comes next must find no dead timer.
  stop() {
    clearTimeout(this.timer)
    this.timer = null
  }
}

function fill(figure, picture) {
  const part = (selector) => figure.querySelector(selector)
  show(part('.after'), picture.image)
  show(part('.before'), picture.before)
  part('.after').alt = picture.alt
  part('.after').classList.toggle('crisp', picture.crisp)
  part('.empty').textContent = picture.image ? '' : picture.alt
  part('b').textContent = picture.title
  part('figcaption span').textContent = picture.note
  part('.handle').hidden = part('.divider').hidden = !picture.before
  part('.divider').setAttribute('aria-label', `Before and after: ${picture.before_title} on the left`)
  figure.dataset.before = picture.before_title
  divide(figure)
}

function show(image, source) {
  image.hidden = !source
  if (source && image.getAttribute('src') !== source) image.src = source
}

function divide(figure) {
  const divider = figure.querySelector('.divider')
  figure.style.setProperty('--cut', `${divider.value}%`)
  divider.setAttribute('aria-valuetext', `${divider.value} % ${figure.dataset.before}`)
}
