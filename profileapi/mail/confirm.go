package mail

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ConfirmPath is where the dashboard answers whoever confirms an address; the token follows.
const ConfirmPath = "/confirm/"

// ConfirmTime is how long the letter that asks for it can be answered.
const ConfirmTime = 7 * 24 * time.Hour

// Confirmation proves that whoever has it reads what goes to an account's address. It ends when it expires, and when the account gets
// another address.
func Confirmation(key []byte, account int64, address string, expires time.Time) string {
	claim := strconv.FormatInt(account, 10) + "." + strconv.FormatInt(expires.Unix(), 10)
	h := hmac.New(sha256.New, key)
	h.Write([]byte("spillway confirm " + claim + " " + address))
	return claim + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Confirms tells whose confirmation a token says it is. It proves nothing before Confirmed has looked at it.
func Confirms(token string) (account int64, ok bool) {
	id, _, _ := strings.Cut(token, ".")
	account, err := strconv.ParseInt(id, 10, 64)
	return account, err == nil && account > 0
}

// Confirmed says whether a token proves that the account's address is read by whoever has it.
func Confirmed(key []byte, token string, account int64, address string, now time.Time) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || address == "" {
		return false
	}
	expires, err := strconv.ParseInt(parts[1], 10, 64)
	return err == nil && now.Unix() < expires && hmac.Equal([]byte(token), []byte(Confirmation(key, account, address, time.Unix(expires, 0))))
}

// Confirm writes the letter that asks whether an address is its account's. number tells the letters to one account apart.
func (l *Letters) Confirm(to string, account int64, number int, now time.Time) (Letter, error) {
	letter := Letter{To: to, Subject: "Is this your address?", ID: fmt.Sprintf("confirm.%d.%d", account, number)}
	data := map[string]any{"Subject": letter.Subject, "Site": l.origin, "To": to, "Days": int(ConfirmTime.Hours() / 24),
		"Address": l.origin + ConfirmPath + Confirmation(l.key, account, to, now.Add(ConfirmTime))}
	var b bytes.Buffer
	if err := l.text.ExecuteTemplate(&b, "confirm.txt", data); err != nil {
		return Letter{}, fmt.Errorf("write letter to account %d: %w", account, err)
	}
	letter.Text = b.String()
	b.Reset()
	if err := l.html.ExecuteTemplate(&b, "confirm.html", data); err != nil {
		return Letter{}, fmt.Errorf("write letter to account %d: %w", account, err)
	}
	letter.HTML = b.String()
	return letter, nil
}
