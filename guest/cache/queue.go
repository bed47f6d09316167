package cache

// queue decides which object gives way: SIEVE (Zhang and others, NSDI 2024). Objects
// stand in the order in which they came. A hit only marks an object; a hand goes from
// the oldest to the newest, takes marks away, and evicts the first object without one.
// An object that nobody asked for again goes at the hand's first visit, so that a
// scan does not wash away what is used; and a hit moves nothing.
type queue struct {
	newest, oldest *Object
	hand           *Object // nil: the oldest
}

// push adds an object that is in no queue.
func (q *queue) push(o *Object) {
	o.queued, o.visited = true, false
	o.older, o.newer = q.newest, nil
	if q.newest != nil {
		q.newest.newer = o
	} else {
		q.oldest = o
	}
	q.newest = o
}

// remove takes an object out.
func (q *queue) remove(o *Object) {
	if q.hand == o {
		q.hand = o.newer
	}
	if o.newer != nil {
		o.newer.older = o.older
	} else {
		q.newest = o.older
	}
	if o.older != nil {
		o.older.newer = o.newer
	} else {
		q.oldest = o.newer
	}
	o.queued, o.newer, o.older = false, nil, nil
}

// victim is who goes next; nil: the queue is empty. Objects that dead says are no
// longer of use are not saved by a mark.
func (q *queue) victim(dead func(*Object) bool) *Object {
	o := q.hand
	if o == nil {
		o = q.oldest
	}
	for o != nil && o.visited && !dead(o) {
		o.visited = false
		if o = o.newer; o == nil {
			o = q.oldest
		}
	}
	q.hand = o
	return o
}
