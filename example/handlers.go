package main

import (
	"context"
	"fmt"
	"net/smtp"
	"time"
)

// A handler may see an event twice: its process can die after the work is done
// and before that is on record. So doing it again must do no harm.

// sendWelcomeEmail mails the user. The error that it returns is what the record
// shows: the mail server's own words. A mail that is sent twice has the same
// Message-Id, by which mailboxes know it.
func (a *app) sendWelcomeEmail(_ context.Context, e UserSignedUp) error {
	const sender = "welcome@example.com"
	message := fmt.Sprintf("From: %s\r\nTo: %s\r\nSubject: Welcome\r\nMessage-Id: <welcome-%s@example.com>\r\n\r\nGood to have you.\r\n",
		sender, e.Email, e.ID)
	return smtp.SendMail(a.mail.addr, nil, sender, []string{e.Email}, []byte(message))
}

// grantTrial gives the user thirty days, once: another call changes nothing.
func (a *app) grantTrial(ctx context.Context, e UserSignedUp) error {
	_, err := a.bus.DB().ExecContext(ctx,
		`UPDATE users SET trial_ends = $1 WHERE id = $2 AND trial_ends IS NULL`,
		time.Now().AddDate(0, 0, 30).Format(time.DateOnly), e.ID)
	return err
}
