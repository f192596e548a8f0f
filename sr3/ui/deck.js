// The stand: the loop of runs, the head of each slide, keys, and the way back after a minute.
//
// The number of the slide lives in the component's state `at`; Python draws what belongs under the
// head. Exactly one timer moves the loop and one leads home; both end with the component.

const FRAME = 180 // milliseconds a frame of the loop
const REST = 2600 // of its last one
const NOBODY = -1 // what `at` says when nobody has touched the stand for a while; as in `deck.py`
const MARKUP = `
  <header>
    <p class="mark">SR3 Lab</p>
    <h1></h1>
    <div class="lines"></div>
  </header>
  <div class="reel" hidden>
    <figure><div class="square"><img class="low" alt="The input, 16 by 16 pixels"></div><figcaption>All that is given: 16 × 16 pixels</figcaption></figure>
    <figure><div class="square"><img class="noisy" alt="The noisy image"></div><figcaption>The noise, step by step taken away</figcaption></figure>
    <figure><div class="square"><img class="clean" alt="The clean estimate"></div><figcaption>What the network makes of it</figcaption></figure>
    <p class="caption"></p>
  </div>
  <div class="empty" hidden>The first runs are being made …</div>
  <nav aria-label="Slides">
    <button class="mine" type="button">Photograph me, or choose a face</button>
    <span class="steps">
      <button class="back" type="button" aria-label="Previous slide">‹</button>
      <span class="where" aria-live="polite"></span>
      <button class="next" type="button" aria-label="Next slide">›</button>
    </span>
    <button class="full" type="button">Full screen</button>
    <p class="meaning"></p>
    <figure class="qr"><img alt=""><figcaption><span class="address"></span><span class="note"></span></figcaption></figure>
  </nav>`

// What Streamlit draws under the head is outside of this component, and of one size on every screen:
// its text and the visitor's slide are enlarged by a rule, its figures by Python, which is told by how
// much.
const SCREENS = [[1900, 1000, 1.3], [2500, 1400, 1.8], [3800, 2000, 2.6]]
const RULES = SCREENS.map(([width, height, scale]) => `
  @media (min-width: ${width}px) and (min-height: ${height}px) {
    .st-key-sr3_slide [data-testid=stMarkdown], .st-key-sr3_mine { zoom: ${scale} }
  }`).join('') + `
  /* Streamlit's page remembers an element whose transition has begun until it ends: one that is
     removed before, as an expander by the next slide, would be kept for good. */
  [data-testid=stExpander] details { transition: none }
  /* While a script runs, Streamlit lets what is old fade; as long as an element's opacity may change,
     what covers the screen from within it is under the page's header. */
  .st-key-sr3_deck, .st-key-sr3_deck * { transition: none !important; opacity: 1 !important }`

const decks = new WeakMap()

export default function ({ data, parentElement, setStateValue }) {
  let deck = decks.get(parentElement)
  if (!deck) decks.set(parentElement, (deck = new Deck(parentElement)))
  deck.receive(data, setStateValue)
  return () => deck.stop()
}

class Deck {
  constructor(parent) {
    this.root = document.createElement('section')
    this.root.className = 'deck'
    this.root.innerHTML = MARKUP
    parent.append(this.root)
    if (!document.getElementById('sr3-stand')) {
      const rule = Object.assign(document.createElement('style'), { id: 'sr3-stand' })
      rule.textContent = RULES
      document.head.append(rule)
    }
    this.find = (selector) => this.root.querySelector(selector)
    this.calm = matchMedia('(prefers-reduced-motion: reduce)').matches
    this.find('.mine').onclick = () => this.go(this.data.slides.length - 1)
    this.find('.back').onclick = () => this.step(-1)
    this.find('.next').onclick = () => this.step(1)
    this.find('.full').onclick = () => this.fullScreen()
    this.onKey = (event) => this.key(event)
    this.onTouch = () => this.touched()
    this.number = this.frame = 0
  }

  receive(data, setStateValue) {
    const ready = this.data?.busy && !data.busy // the picture is there: time to look at it
    this.data = data
    const fits = SCREENS.filter(([width, height]) => innerWidth >= width && innerHeight >= height)
    const scale = fits.at(-1)?.[2] ?? 1
    if (scale !== (this.scale ?? 1)) setStateValue('scale', (this.scale = scale))
    this.set = setStateValue
    this.listen()
    if (ready) this.touched()
    const slide = data.slides[data.at]
    this.root.dataset.kind = slide.kind
    this.find('h1').textContent = slide.title
    this.find('.lines').replaceChildren(...slide.lines.map((line) => {
      const paragraph = document.createElement('p')
      paragraph.textContent = line.replaceAll('`', '')
      return paragraph
    }))
    this.find('.where').textContent = data.at ? `${data.at} of ${data.slides.length - 1}` : 'Start'
    this.find('.meaning').textContent = data.meaning
    this.find('.meaning').hidden = !data.meaning
    this.find('.mine').hidden = slide.kind === 'visitor'
    this.find('.qr img').src = data.qr
    this.find('.qr img').alt = `A QR code of ${data.address}`
    this.find('.qr .address').textContent = data.address
    this.find('.qr .note').textContent = data.note
    this.find('.reel').hidden = slide.kind !== 'loop' || !data.reels.length
    this.find('.empty').hidden = slide.kind !== 'loop' || data.reels.length > 0
    if (slide.kind === 'loop' && data.reels.length) this.loop()
    else this.halt()
  }

  // ------------------------------------------------------------------------------------ the loop
  loop() {
    if (this.timer) return
    const reel = this.data.reels[this.number % this.data.reels.length]
    const last = reel.clean.length - 1
    if (this.calm) this.frame = last
    this.put('.low', reel.low)
    this.put('.noisy', reel.noisy[this.frame])
    this.put('.clean', reel.clean[this.frame])
    this.find('.caption').textContent = `${reel.title}: ${reel.caption} ${reel.credit}`
    const rest = this.frame >= last
    this.timer = setTimeout(() => {
      this.timer = null
      if (rest) this.number += 1
      this.frame = rest ? 0 : this.frame + 1
      this.loop()
    }, rest ? (this.calm ? 8000 : REST) : FRAME)
  }

  put(selector, source) {
    const image = this.find(selector)
    if (image.getAttribute('src') !== source) image.src = source
  }

  halt() {
    clearTimeout(this.timer)
    this.timer = null
    this.frame = 0
  }

  // ------------------------------------------------------------------------------ slides and keys
  go(at) {
    if (at !== this.data.at) this.set('at', at)
  }

  step(by) {
    const count = this.data.slides.length
    this.go((this.data.at + by + count) % count)
  }

  key(event) {
    this.touched()
    const path = event.composedPath(), target = path[0]
    // A key that was used, as by the crop's square, or pressed in what is open over the page.
    if (event.defaultPrevented || path.some((each) => each.matches?.('[role=dialog]'))) return
    if (event.ctrlKey || event.metaKey || event.altKey) return
    if (target.closest?.('input, textarea, select, [role=slider], [role=tab], [role=combobox], [contenteditable]')) return
    const onButton = target.closest?.('button, a, summary')
    const by = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 }[event.key]
    if (by) this.step(by)
    else if (event.key === ' ' && !onButton) this.step(1)
    else if (event.key === 'Home' || event.key === 'Escape') this.go(0)
    else return
    event.preventDefault()
  }

  touched() {
    clearTimeout(this.home)
    // A visitor who waits for a picture is not sent home.
    this.home = setTimeout(() => (this.data.busy ? this.touched() : this.set('at', NOBODY)), this.data.home_after * 1000)
  }

  listen() {
    if (this.listening) return
    this.listening = true
    addEventListener('keydown', this.onKey)
    for (const kind of ['pointerdown', 'wheel', 'touchstart']) addEventListener(kind, this.onTouch, { passive: true })
    this.touched()
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen()
    else document.documentElement.requestFullscreen?.()
  }

  stop() {
    this.halt()
    clearTimeout(this.home)
    removeEventListener('keydown', this.onKey)
    for (const kind of ['pointerdown', 'wheel', 'touchstart']) removeEventListener(kind, this.onTouch)
    this.listening = false
  }
}
