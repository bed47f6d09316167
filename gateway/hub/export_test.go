package hub

// Receipts is how many are kept.
func (h *Hub) Receipts() int {
	h.receipts.mu.Lock()
	defer h.receipts.mu.Unlock()
	return max(len(h.receipts.byName), len(h.receipts.order))
}
